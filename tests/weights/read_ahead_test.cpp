#include "weights/read_ahead.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "temp_folder.h"
#include "weights/checkpoint.h"
#include "weights/safetensors_writer.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kSide = 24 * kMiB;  // of each tensor

// Two tensors in a file that the page cache does not hold, if the file system lets go of it.
class ReadAheadTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::vector<std::byte> data(kSide);
    const auto bytes = safetensors_bytes(
        {{{"first", DType::kU8, {kSide}}, data}, {{"second", DType::kU8, {kSide}}, data}}, {});
    folder_.write("x.safetensors",
                  std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    const auto path = folder_ / "x.safetensors";
    const int file = ::open(path.c_str(), O_RDONLY);
    ASSERT_GE(file, 0);
    ASSERT_EQ(::fsync(file), 0);
    ASSERT_EQ(::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
    ::close(file);
    weights_.emplace(Checkpoint::open(path));
    if (share("first") > 0.1 || share("second") > 0.1) GTEST_SKIP() << "the file stays in memory";
  }

  double share(const std::string& name) const {
    const auto& view = weights_->find(name)->first().values;
    return share_in_page_cache({view.data, view.nbytes});
  }

  TempFolder folder_;
  std::optional<ComponentWeights> weights_;
};

TEST_F(ReadAheadTest, BringsEverything) {
  ReadAhead({{*weights_, 3 * kSide}}).wait();
  EXPECT_EQ(share("first"), 1);
  EXPECT_EQ(share("second"), 1);
}

TEST_F(ReadAheadTest, BringsNoMoreThanItMay) {
  ReadAhead({{*weights_, kSide}}).wait();
  EXPECT_EQ(share("first"), 1);
  EXPECT_LT(share("second"), 0.2);  // the kernel reads a little ahead itself
}

TEST_F(ReadAheadTest, NothingForNoBytes) {
  ReadAhead({{*weights_, 0}, {*weights_, -5}}).wait();
  EXPECT_LT(share("first"), 0.1);
}

TEST_F(ReadAheadTest, EndsWhenItIsNotWantedAnyMore) {
  const ReadAhead abandoned({{*weights_, 3 * kSide}});  // its end waits for 16 MiB at most
}

}  // namespace
}  // namespace steadyflux
