#include "base/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/bytes.h"

namespace steadyflux {
namespace {

// Smaller parts are not moved: a process may have some ten thousand mappings.
constexpr std::size_t kLeastMoved = std::size_t{1} << 16;

std::size_t whole_pages(std::size_t size) {
  static const std::int64_t page = ::sysconf(_SC_PAGESIZE);
  return static_cast<std::size_t>(rounded_up(static_cast<std::int64_t>(size), page));
}

}  // namespace

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      parts_(std::move(other.parts_)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  parts_.swap(other.parts_);
  return *this;
}

Pages::~Pages() {
  if (size_ > 0) ::munmap(data_, size_);
}

// Moves what is last, of one part at most, over what is mapped at `place`; the bytes moved, or 0 if
// a part too small for that was given back instead. Throws std::bad_alloc if the system refuses,
// and then nobody knows whether anything is mapped at `place`.
std::size_t Pages::move_last_to(std::byte* place, std::size_t most) {
  const auto part = parts_.back();
  const bool moves = part >= kLeastMoved;
  const auto bytes = moves ? std::min(part, most) : part;
  auto* const from = data_ + size_ - bytes;
  size_ -= bytes;
  parts_.back() -= bytes;
  if (parts_.back() == 0) parts_.pop_back();
#if defined(__linux__)
  if (moves && ::mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) != MAP_FAILED) {
    return bytes;
  }
#endif
  ::munmap(from, bytes);
  if (moves) throw std::bad_alloc();
  return 0;
}

Pages Pages::take(std::size_t size, std::deque<Pages>& old) {
  size = whole_pages(size);
  std::size_t most_parts = 1;
  for (const auto& pages : old) most_parts += pages.parts_.size();
  std::vector<std::size_t> parts;
  parts.reserve(most_parts);
  auto* const place =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED) throw std::bad_alloc();
  Pages taken(static_cast<std::byte*>(place), 0, std::move(parts));  // as far as it is sure
  while (size - taken.size_ >= kLeastMoved && !old.empty()) {
    auto& block = old.front();
    if (const auto bytes = block.move_last_to(taken.data_ + taken.size_, size - taken.size_)) {
      taken.parts_.push_back(bytes);
      taken.size_ += bytes;
    }
    if (block.size_ == 0) old.pop_front();
  }
  if (taken.size_ < size) taken.parts_.push_back(size - taken.size_);
  taken.size_ = size;
  return taken;
}

}  // namespace steadyflux
