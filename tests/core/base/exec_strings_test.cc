#include "core/base/exec_strings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace gpumig {
namespace {

TEST(ExecStringsTest, AddedVariablesReplaceThoseOfTheSameNameAndNoOthers) {
  setenv("GPUMIG_TEST", "old", 1);
  setenv("GPUMIG_TEST_LONGER", "kept", 1);
  std::vector<std::string> environment = EnvironmentWith({{"GPUMIG_TEST", "new"}, {"GPUMIG_TEST_MORE", "x=y"}});
  EXPECT_THAT(environment,
              testing::IsSupersetOf({"GPUMIG_TEST=new", "GPUMIG_TEST_MORE=x=y", "GPUMIG_TEST_LONGER=kept"}));
  EXPECT_THAT(environment, testing::Not(testing::Contains("GPUMIG_TEST=old")));
  const std::vector<char*> pointers = PointersInto(environment);
  ASSERT_EQ(pointers.size(), environment.size() + 1);
  EXPECT_EQ(pointers.front(), environment.front().data());
  EXPECT_EQ(pointers.back(), nullptr);
}

}  // namespace
}  // namespace gpumig
