// Memory of large tensors that goes from one to the next. The pages of memory that is new have to
// be cleared and mapped by the system first; layers that make tensors of the same few sizes over
// and over would pay for that each time.
#pragma once

#include <memory>

namespace steadyflux {

// While one is alive, tensors of half a MiB and more that this thread makes on the CPU take the
// memory of such that were made and freed meanwhile, if these were as large or hardly larger. What
// is kept gives way as soon as a tensor needs memory that is new and both were more than all
// tensors have had at once, so that no more is held at the peak than without. Tensors may outlive
// it, and be freed by any thread.
class ReusedBuffers {
 public:
  ReusedBuffers();
  ~ReusedBuffers();
  ReusedBuffers(const ReusedBuffers&) = delete;
  ReusedBuffers& operator=(const ReusedBuffers&) = delete;

  class Kept;

 private:
  std::shared_ptr<Kept> outer_;  // what this thread had before
};

}  // namespace steadyflux
