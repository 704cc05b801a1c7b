// How a model asks for its weights while it computes. The weights of a model are cut into units, in
// the order of use; the model takes a lease on a unit, computes with the tensors bound to its
// slots, and gives the lease back. Where the bytes come from (always there, copied from RAM, read
// from disk) is the provider's affair: see src/residency.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "nn/tensor_slots.h"

namespace steadyflux {

// Weights that are needed at the same time.
struct WeightUnit {
  std::string name;  // "transformer_blocks.3.attn"
  std::vector<TensorSlot> slots;
};

// `slots` and those of the units behind them.
inline std::vector<TensorSlot> all_slots(std::vector<TensorSlot> slots,
                                         std::vector<WeightUnit> units) {
  for (auto& unit : units) {
    for (auto& slot : unit.slots) slots.push_back(std::move(slot));
  }
  return slots;
}

class WeightProvider {
 public:
  virtual ~WeightProvider() = default;

  // While it lives, the tensors of one unit are bound and stay as they are.
  class Lease {
   public:
    Lease() = default;
    Lease(WeightProvider* provider, std::size_t unit) : provider_(provider), unit_(unit) {}
    Lease(Lease&& other) noexcept
        : provider_(std::exchange(other.provider_, nullptr)), unit_(other.unit_) {}
    Lease& operator=(Lease&& other) noexcept {
      if (this == &other) return *this;
      end();
      provider_ = std::exchange(other.provider_, nullptr);
      unit_ = other.unit_;
      return *this;
    }
    ~Lease() { end(); }
    void end() {
      if (provider_ != nullptr) std::exchange(provider_, nullptr)->release(unit_);
    }

   private:
    WeightProvider* provider_ = nullptr;
    std::size_t unit_ = 0;
  };

  // Units are acquired in their order, again and again; throws Error{kIo}, c10::OutOfMemoryError.
  Lease acquire(std::size_t unit) {
    bind(unit);
    return {this, unit};
  }

  // The units behind the last one acquired are not wanted this time: the first one is next.
  virtual void end_pass() {}

 protected:
  virtual void bind(std::size_t unit) = 0;
  virtual void release(std::size_t unit) noexcept = 0;
};

// For weights that are all bound already: leases cost nothing.
class BoundWeights final : public WeightProvider {
 private:
  void bind(std::size_t) override {}
  void release(std::size_t) noexcept override {}
};

}  // namespace steadyflux
