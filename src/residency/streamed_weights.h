// Weights that are where the plan says: a part of the units stays in place, the rest comes anew in
// every pass over the model, from pinned RAM or from disk, through a few buffers that take turns. A
// thread runs ahead and fills buffers while the model computes with others. The same code serves a
// device (buffers there, copies on a stream of their own) and the CPU (the file read into buffers).
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "memory/plan.h"
#include "nn/load.h"
#include "nn/weight_provider.h"
#include "weights/component_weights.h"

namespace steadyflux {

class StreamedWeights final : public WeightProvider {
 public:
  // `units` in the order in which a pass acquires them; plan.places has one entry for each, and
  // plan.passes says how often. Buffers and residents are allocated here, so that what does not fit
  // is known at once. Throws as match_slots does, c10::OutOfMemoryError, std::bad_alloc.
  StreamedWeights(const std::vector<WeightUnit>& units, const ComponentWeights& checkpoint,
                  const LoadOptions& options, const WeightsPlan& plan);
  // Waits until nothing is under way any more; unbinds all tensors.
  ~StreamedWeights() override;
  StreamedWeights(const StreamedWeights&) = delete;
  StreamedWeights& operator=(const StreamedWeights&) = delete;

  // What is left out is not read if units in front of it come from somewhere else in every pass;
  // if all of these are resident, what the buffers hold by then waits there for the next pass.
  void end_pass() override;

  // Goes on by another plan, from the first unit of a pass. Units that stay resident are kept as
  // they are, so fewer residents cost nothing but reading them from now on. No lease may be held.
  void restart(const WeightsPlan& plan);

  // Of files, since the beginning.
  std::int64_t bytes_read() const;

 protected:
  void bind(std::size_t unit) override;
  void release(std::size_t unit) noexcept override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace steadyflux
