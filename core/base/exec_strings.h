// The argument and environment vectors that execve() takes. Made before fork(): a child of a program with threads may
// not allocate.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace gpumig {

// "NAME=value" of all that this process has, with `added` in place of what has the same name.
std::vector<std::string> EnvironmentWith(const std::vector<std::pair<std::string, std::string>>& added);

// One pointer into each of `strings`, which must outlive them, and a null behind.
std::vector<char*> PointersInto(std::vector<std::string>& strings);

}  // namespace gpumig
