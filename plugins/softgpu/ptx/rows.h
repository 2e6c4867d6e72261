// Hands out the rows of one kernel.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "plugins/softgpu/ptx/program.h"

namespace softgpu::ptx {

class RowAllocator {
 public:
  // A new row of 1, 2, 4 or 8 bytes per lane. What goes beyond kMaxFrameBytes is only counted; see overflowed().
  std::uint32_t Allocate(std::uint32_t bytes);
  // As Allocate(), until ReleaseTemporaries().
  std::uint32_t Temporary(std::uint32_t bytes);
  void ReleaseTemporaries() { temporaries_in_use_ = {}; }

  std::uint32_t Value(std::uint32_t bytes, std::uint64_t value);
  std::uint32_t GlobalAddress(std::uint32_t global, std::uint64_t addend);
  std::uint32_t DynamicShared(std::uint64_t addend);
  // Of 4 bytes; kZero64 of 8.
  std::uint32_t Special(SpecialRegister special);

  bool overflowed() const { return next_ > kMaxFrameBytes; }
  std::uint32_t frame_bytes() const { return next_; }
  std::vector<FixedRow> TakeFixedRows() { return std::move(fixed_rows_); }

 private:
  std::uint32_t Fixed(FixedRow fixed);

  std::uint32_t next_ = 0;
  std::map<std::tuple<int, int, int, std::uint32_t, std::uint64_t>, std::uint32_t> fixed_by_value_;
  std::vector<FixedRow> fixed_rows_;
  std::array<std::vector<std::uint32_t>, 9> temporaries_;  // By bytes.
  std::array<std::size_t, 9> temporaries_in_use_ = {};
};

}  // namespace softgpu::ptx
