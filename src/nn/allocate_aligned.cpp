#include "nn/allocate_aligned.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "weights/uncached_file.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kPage = UncachedFile::kAlignment;
constexpr std::int64_t kLargePages = std::int64_t{4} << 20;

}  // namespace

at::Tensor allocate_aligned(std::int64_t size) {
  const auto alignment = size >= kLargePages ? std::int64_t{2} << 20 : kPage;
  const auto room = at::empty({size + alignment}, at::kByte);
  const auto address = reinterpret_cast<std::intptr_t>(room.const_data_ptr());
  auto bytes = room.narrow(0, rounded_up(address, alignment) - address, size);
#if defined(MADV_HUGEPAGE)
  // A hint: without it the buffer works as well, with more entries in the page tables.
  if (size >= kLargePages) {
    ::madvise(bytes.mutable_data_ptr(), static_cast<std::size_t>(size), MADV_HUGEPAGE);
  }
#endif
  return bytes;
}

}  // namespace steadyflux
