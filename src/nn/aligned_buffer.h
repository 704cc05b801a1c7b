// Room for numbers that matrix units read: rows that begin within a cache line take them two reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace steadyflux {

// `count` values that are not set yet, at a multiple of 64 bytes.
template <typename T>
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::int64_t count)
      : values_(static_cast<T*>(
            ::operator new(static_cast<std::size_t>(count) * sizeof(T), kAlignment))) {}

  T* data() { return values_.get(); }
  const T* data() const { return values_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* values) const { ::operator delete(values, kAlignment); }
  };
  std::unique_ptr<T, Free> values_;
};

}  // namespace steadyflux
