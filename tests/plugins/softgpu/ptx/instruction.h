// Runs a single instruction on many operands.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {

// `instruction` without its operands ("add.s32"), the type of its result and of its sources ("s32", "pred"). Row i of
// `operands` has the bits of the sources of case i; so does the result have the bits of its result, zero-extended.
std::vector<std::uint64_t> Evaluate(std::string_view instruction, std::string_view result_type,
                                    const std::vector<std::string>& source_types,
                                    const std::vector<std::vector<std::uint64_t>>& operands);

// All rows of one value of each list.
std::vector<std::vector<std::uint64_t>> AllCombinations(const std::vector<std::vector<std::uint64_t>>& lists);

// Numbers at which integers of so many bits go wrong, if they do.
std::vector<std::uint64_t> EdgeIntegers(unsigned bits);
std::vector<std::uint64_t> EdgeFloats();   // f32
std::vector<std::uint64_t> EdgeDoubles();  // f64

}  // namespace softgpu::ptx
