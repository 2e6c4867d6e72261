// Turns PTX text into its syntax, checking grammar and limits but not yet names and types.
#pragma once

#include <string_view>
#include <variant>

#include "plugins/softgpu/ptx/module.h"
#include "plugins/softgpu/ptx/syntax.h"

namespace softgpu::ptx {

// The result borrows `text`.
std::variant<ModuleSyntax, ParseError> ParseSyntax(std::string_view text);

}  // namespace softgpu::ptx
