#include "plugins/cuda/nvml.h"

#include <gtest/gtest.h>

namespace gpumig {
namespace {

TEST(NvmlMemoryTest, AddsUpWhatAProcessHoldsOnAllGpus) {
  const auto nvml = NvmlMemory::Open(FAKE_NVML);
  ASSERT_NE(nvml, nullptr);
  EXPECT_EQ(nvml->HeldBytes(17), 120u);
  EXPECT_EQ(nvml->FreeBytes("GPU-any"), 880u);
}

TEST(NvmlMemoryTest, WhatIsNotToldIsNotZero) {
  const auto nvml = NvmlMemory::Open(FAKE_NVML);
  ASSERT_NE(nvml, nullptr);
  EXPECT_EQ(nvml->HeldBytes(18), std::nullopt);
  EXPECT_EQ(nvml->HeldBytes(19), std::nullopt) << "listed nowhere";
}

TEST(NvmlMemoryTest, WithoutTheLibraryThereIsNone) { EXPECT_EQ(NvmlMemory::Open("/no/such/library.so"), nullptr); }

}  // namespace
}  // namespace gpumig
