// What tests of dumps share: CRIU, a directory in memory, and a cgroup that is emptied and removed at the end.
#pragma once

#include <unistd.h>

#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "core/base/file.h"
#include "core/host/cgroup.h"
#include "core/host/criu.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {

class CriuFixture : public testing::Test {
 protected:
  void SetUp() override {
    GPUMIG_NEEDS_ROOT();
    auto criu = FindCriu();
    GPUMIG_NEEDS("criu", criu.has_value(), "needs CRIU");
    criu_ = *criu;
    auto directory = TemporaryDirectory::Create("/dev/shm", "gpumig-criu-test");
    ASSERT_THAT(directory, IsOk());
    directory_.emplace(std::move(*directory));
    base_ = fmt::format("gpumig/test-{}", getpid());
    auto base = Cgroup::Create(base_);
    ASSERT_THAT(base, IsOk());
    cgroup_.emplace(std::move(*base));
  }
  void TearDown() override {
    if (!cgroup_) return;
    EXPECT_THAT(cgroup_->Kill(std::chrono::seconds(30)), IsOk());
    EXPECT_THAT(cgroup_->Remove(), IsOk());
  }

  Cgroup Child(const std::string& name) { return *Cgroup::Create(base_ + "/" + name); }

  Criu criu_;
  std::optional<TemporaryDirectory> directory_;
  std::string base_;
  std::optional<Cgroup> cgroup_;
};

}  // namespace gpumig
