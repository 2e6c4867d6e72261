// A test with the fake driver library loaded, and its answers reset.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/plugins/cuda/fake_driver.h"

namespace gpumig {

class FakeDriverTest : public testing::Test {
 protected:
  FakeDriverTest() : handle_(dlopen(FAKE_CUDA_DRIVER, RTLD_NOW | RTLD_LOCAL)) {
    void* address = dlsym(handle_, "fake_cuda_control");
    FakeCudaControlFunction function = nullptr;
    std::memcpy(&function, &address, sizeof(function));
    driver_ = function();
    *driver_ = FakeCudaControl();
  }
  ~FakeDriverTest() override { dlclose(handle_); }

  void* handle_;
  FakeCudaControl* driver_;
};

}  // namespace gpumig
