// Memory of the system's in whole pages, which can become part of other such memory. A page that is
// new has to be cleared and mapped first, which takes many times as long as moving one.
#pragma once

#include <cstddef>
#include <deque>
#include <utility>
#include <vector>

namespace steadyflux {

// Blocks of so many bytes and more come from the system one by one, and go back to it at once.
constexpr std::size_t kLargeBlock = std::size_t{1} << 19;

class Pages {
 public:
  // At least `size` bytes, whatever they hold: pages of `old`, of the first ones first, and new
  // ones where these do not suffice, or for the last of 64 KiB. What `old` has left keeps its
  // place; blocks that have nothing left are gone from it. Throws std::bad_alloc if the system
  // gives no more.
  static Pages take(std::size_t size, std::deque<Pages>& old);

  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;
  ~Pages();  // gives them back

  void* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  Pages(std::byte* data, std::size_t size, std::vector<std::size_t> parts)
      : data_(data), size_(size), parts_(std::move(parts)) {}
  std::size_t move_last_to(std::byte* place, std::size_t most);

  std::byte* data_;
  std::size_t size_;
  // Bytes of what was mapped as one, in order: the system moves no more than that at once.
  std::vector<std::size_t> parts_;
};

}  // namespace steadyflux
