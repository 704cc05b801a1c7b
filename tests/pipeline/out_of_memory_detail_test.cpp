#include "pipeline/out_of_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <system_error>

namespace steadyflux {
namespace {

std::string detail_of(const std::exception& error) {
  return out_of_memory_detail(error).value_or("not out of memory");
}

TEST(OutOfMemoryDetail, TellsTheSizeThatRamRefused) {
  // More than any machine has, so that the allocator itself writes the message.
  try {
    const auto tensor = at::empty({std::int64_t{1} << 60}, at::kByte);
    FAIL() << tensor.numel();
  } catch (const std::exception& error) {
    EXPECT_EQ(detail_of(error), "no room for 1048576.00 TiB");
  }
}

TEST(OutOfMemoryDetail, TellsTheSizeThatADeviceRefused) {
  EXPECT_EQ(detail_of(c10::OutOfMemoryError(
                {"f", "file", 1},
                "CUDA out of memory. Tried to allocate 20.50 MiB. GPU 0 has a total capacity of "
                "7.79 GiB of which 12.50 MiB is free.")),
            "no room for 20.50 MiB");
}

TEST(OutOfMemoryDetail, KeepsOtherWords) {
  EXPECT_EQ(detail_of(c10::OutOfMemoryError({"f", "file", 1}, "the device is full")),
            "the device is full");
  EXPECT_EQ(detail_of(std::system_error(std::make_error_code(std::errc::not_enough_memory))),
            "Cannot allocate memory");
  EXPECT_EQ(detail_of(std::bad_alloc()), "");
}

TEST(OutOfMemoryDetail, IsNothingForOtherErrors) {
  EXPECT_EQ(out_of_memory_detail(std::runtime_error("Tried to allocate 20 MiB")), std::nullopt);
  EXPECT_EQ(out_of_memory_detail(c10::Error({"f", "file", 1}, "wrong shape")), std::nullopt);
}

}  // namespace
}  // namespace steadyflux
