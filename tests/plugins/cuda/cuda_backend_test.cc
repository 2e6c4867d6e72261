#include "plugins/cuda/cuda_backend.h"

#include <array>

#include "tests/plugins/cuda/fake_driver_test.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

constexpr pid_t kPid = 4242;
constexpr const char* kFirst = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f";
constexpr const char* kSecond = "GPU-10111213-1415-1617-1819-1a1b1c1d1e1f";

class CudaBackendTest : public FakeDriverTest {
 protected:
  CudaBackend Open() {
    auto library = CudaLibrary::Open(FAKE_CUDA_DRIVER);
    EXPECT_THAT(library, IsOk());
    return CudaBackend(std::move(*library), nullptr);
  }
  static std::array<GpuPair, 2> Map(const char* first, const char* second) {
    return {GpuPair{kFirst, first, ""}, GpuPair{kSecond, second, ""}};
  }
};

TEST_F(CudaBackendTest, TellsTheGpusAndKeepsNoContext) {
  CudaBackend backend = Open();
  const auto gpus = backend.Devices();
  ASSERT_THAT(gpus, IsOk());
  ASSERT_EQ(gpus->size(), 2u);
  EXPECT_EQ((*gpus)[0].uuid, kFirst);
  EXPECT_EQ((*gpus)[1].uuid, kSecond);
  EXPECT_EQ((*gpus)[1].chip, "Fake Chip");
  EXPECT_EQ((*gpus)[1].pci_bus_id, "0000:01:00.0");
  EXPECT_EQ((*gpus)[1].total_bytes, 1000u);
  EXPECT_EQ((*gpus)[1].free_bytes, 700u);
  EXPECT_EQ(driver_->contexts, 0);
  EXPECT_EQ(backend.Describe(), std::string("CUDA 13.0 driver, ") + FAKE_CUDA_DRIVER);
}

TEST_F(CudaBackendTest, AGpuTooFullForAContextHasNothingFree) {
  CudaBackend backend = Open();
  driver_->retain = cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  const auto gpus = backend.Devices();
  ASSERT_THAT(gpus, IsOk());
  EXPECT_EQ(gpus->front().free_bytes, 0u);
}

TEST_F(CudaBackendTest, TellsEachState) {
  CudaBackend backend = Open();
  for (const auto& [number, state] : {std::pair{0u, GpuState::kRunning}, std::pair{1u, GpuState::kLocked},
                                      std::pair{2u, GpuState::kCheckpointed}, std::pair{3u, GpuState::kFailed}}) {
    driver_->state = number;
    EXPECT_EQ(*backend.State(kPid), state);
  }
  driver_->state = 4;
  EXPECT_THAT(backend.State(kPid), FailsWith(ErrorCode::kFailedPrecondition, "another program is capturing"));
  driver_->checkpoint_call = cuda_abi::CUDA_ERROR_NOT_INITIALIZED;
  EXPECT_EQ(*backend.State(kPid), GpuState::kNone);
  driver_->checkpoint_call = cuda_abi::CUDA_ERROR_NOT_PERMITTED;
  EXPECT_THAT(backend.State(kPid), FailsWith(ErrorCode::kPermissionDenied, "may not trace"));
}

TEST_F(CudaBackendTest, TranslatesEachAnswerOfTheDriver) {
  CudaBackend backend = Open();
  const std::vector<std::pair<unsigned, ErrorCode>> answers = {{1, ErrorCode::kInvalidArgument},
                                                               {2, ErrorCode::kResourceExhausted},
                                                               {3, ErrorCode::kFailedPrecondition},
                                                               {100, ErrorCode::kUnavailable},
                                                               {304, ErrorCode::kIo},
                                                               {401, ErrorCode::kFailedPrecondition},
                                                               {600, ErrorCode::kDeadlineExceeded},
                                                               {800, ErrorCode::kPermissionDenied},
                                                               {801, ErrorCode::kUnsupported},
                                                               {999, ErrorCode::kInternal},
                                                               {12345, ErrorCode::kInternal}};
  for (const auto& [number, code] : answers) {
    SCOPED_TRACE(number);
    driver_->checkpoint_call = static_cast<cuda_abi::CUresult>(number);
    const std::string text = fmt::format("({})", number);
    EXPECT_THAT(backend.Lock(kPid, std::chrono::seconds(1)), FailsWith(code, text));
    EXPECT_THAT(backend.Checkpoint(kPid), FailsWith(code, text));
    EXPECT_THAT(backend.Restore(kPid, Map(kSecond, kFirst)), FailsWith(code, text));
    EXPECT_THAT(backend.Unlock(kPid), FailsWith(code, text));
    EXPECT_THAT(backend.RestoreThread(kPid), FailsWith(code, text));
  }
}

TEST_F(CudaBackendTest, GivesTheDriverEveryPairAndZeroesAllThatIsReserved) {
  CudaBackend backend = Open();
  ASSERT_THAT(backend.Lock(kPid, std::chrono::milliseconds(1234)), IsOk());
  EXPECT_EQ(driver_->timeout_ms, 1234u);
  ASSERT_THAT(backend.Lock(kPid, std::chrono::hours(24 * 365)), IsOk());
  EXPECT_EQ(driver_->timeout_ms, ~0u) << "limited, not wrapped around";
  ASSERT_THAT(backend.Checkpoint(kPid), IsOk());
  ASSERT_THAT(backend.Restore(kPid, Map(kSecond, kFirst)), IsOk());
  ASSERT_THAT(backend.Unlock(kPid), IsOk());
  EXPECT_TRUE(driver_->reserved_is_zero);
  ASSERT_EQ(driver_->pairs.size(), 2u);
  EXPECT_EQ(driver_->pairs[0].oldUuid.bytes[1], 0x01);
  EXPECT_EQ(driver_->pairs[0].newUuid.bytes[1], 0x11);
  EXPECT_EQ(driver_->pairs[1].newUuid.bytes[1], 0x01);
}

TEST_F(CudaBackendTest, GivesThePairsAlsoWhereNothingMoves) {
  CudaBackend backend = Open();
  ASSERT_THAT(backend.Restore(kPid, Map(kFirst, kSecond)), IsOk());
  EXPECT_EQ(driver_->pairs.size(), 2u);
}

TEST_F(CudaBackendTest, ADriverBefore580RestoresInPlaceOnly) {
  driver_->version = 12080;
  CudaBackend backend = Open();
  EXPECT_THAT(backend.Restore(kPid, Map(kSecond, kFirst)), FailsWith(ErrorCode::kUnsupported, "580"));
  ASSERT_THAT(backend.Restore(kPid, Map(kFirst, kSecond)), IsOk());
  EXPECT_FALSE(driver_->had_pairs);
}

TEST_F(CudaBackendTest, RefusesAMapThatIsNotOfUuids) {
  CudaBackend backend = Open();
  EXPECT_THAT(backend.Restore(kPid, Map("GPU-7", kFirst)),
              FailsWith(ErrorCode::kInvalidArgument, "'GPU-7' is not a GPU UUID"));
}

TEST_F(CudaBackendTest, DoesNotTrustTheDriversGpuCount) {
  CudaBackend backend = Open();
  driver_->device_count = 1 << 30;
  EXPECT_THAT(backend.Devices(), FailsWith(ErrorCode::kInternal, "claims 1073741824 GPUs"));
}

}  // namespace
}  // namespace gpumig
