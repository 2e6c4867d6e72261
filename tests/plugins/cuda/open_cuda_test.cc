#include "plugins/cuda/open_cuda.h"

#include <cstdlib>

#include "tests/plugins/cuda/fake_driver_test.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

class OpenCudaTest : public FakeDriverTest {
 protected:
  OpenCudaTest() { unsetenv("GPUMIG_LIBCUDA"); }
  ~OpenCudaTest() override { unsetenv("GPUMIG_LIBCUDA"); }
  static bool HasSystemDriver() {
    void* handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return false;
    dlclose(handle);
    return true;
  }
  std::string WhyNot() {
    const auto port = OpenCudaDevicePort({.library = FAKE_CUDA_DRIVER, .software_library = ""});
    EXPECT_FALSE(port.has_value());
    if (port) return "";
    EXPECT_EQ(port.error().code(), ErrorCode::kUnavailable);
    return port.error().message();
  }
};

using testing::HasSubstr;

TEST_F(OpenCudaTest, TakesTheSoftwareGpuWhereThereIsNoOther) {
  GPUMIG_NEEDS("no-gpu", !HasSystemDriver(), "this host has a driver of its own");
  const auto port = OpenCudaDevicePort({.library = "", .software_library = FAKE_CUDA_DRIVER});
  ASSERT_THAT(port, IsOk());
  EXPECT_THAT((*port)->Describe(), HasSubstr(FAKE_CUDA_DRIVER));
}

TEST_F(OpenCudaTest, ListsEachLibraryThatWasTriedWithItsReason) {
  GPUMIG_NEEDS("no-gpu", !HasSystemDriver(), "this host has a driver of its own");
  const auto port = OpenCudaDevicePort({.library = "", .software_library = "/no/such/libcuda.so.1"});
  ASSERT_FALSE(port.has_value());
  EXPECT_EQ(port.error().code(), ErrorCode::kUnavailable);
  EXPECT_THAT(port.error().message(),
              HasSubstr("libcuda.so.1 (the system's): libcuda.so.1: cannot open shared object file"));
  EXPECT_THAT(port.error().message(),
              HasSubstr("/no/such/libcuda.so.1 (the software GPU): /no/such/libcuda.so.1: cannot open"));
}

TEST_F(OpenCudaTest, TheEnvironmentBeatsTheDefaultsAndTheOptionBeatsBoth) {
  setenv("GPUMIG_LIBCUDA", "/no/such/a.so", 1);
  EXPECT_THAT(OpenCudaDevicePort({.library = "", .software_library = FAKE_CUDA_DRIVER}),
              FailsWith(ErrorCode::kUnavailable, "/no/such/a.so (GPUMIG_LIBCUDA)"));
  EXPECT_THAT(OpenCudaDevicePort({.library = FAKE_CUDA_DRIVER, .software_library = ""}), IsOk());
  setenv("GPUMIG_LIBCUDA", FAKE_CUDA_DRIVER, 1);
  EXPECT_THAT(OpenCudaDevicePort({.library = "", .software_library = ""}), IsOk());
  EXPECT_THAT(OpenCudaDevicePort({.library = "/no/such/b.so", .software_library = ""}),
              FailsWith(ErrorCode::kUnavailable, "/no/such/b.so (as asked)"));
}

TEST_F(OpenCudaTest, ALibraryThatIsNoDriverIsRefused) {
  EXPECT_THAT(OpenCudaDevicePort({.library = "libm.so.6", .software_library = ""}),
              FailsWith(ErrorCode::kUnavailable, "it has no cuGetProcAddress_v2"));
}

TEST_F(OpenCudaTest, ADriverTooOldIsRefusedByName) {
  driver_->missing = "cuCheckpointProcessRestore";
  EXPECT_THAT(WhyNot(),
              HasSubstr("it lacks cuCheckpointProcessRestore (CUDA 12.8); capturing processes needs driver 570"));
}

TEST_F(OpenCudaTest, ADriverThatDoesNotComeUpIsRefused) {
  driver_->init = cuda_abi::CUDA_ERROR_NO_DEVICE;
  EXPECT_THAT(WhyNot(), HasSubstr("cuInit: CUDA_ERROR_NO_DEVICE (100)"));
}

TEST_F(OpenCudaTest, ADriverWithoutGpusIsRefused) {
  driver_->device_count = 0;
  EXPECT_THAT(WhyNot(), HasSubstr("it has no GPU"));
}

}  // namespace
}  // namespace gpumig
