// Memory of large tensors that goes from one to the next. The pages of memory that is new have to
// be cleared and mapped by the system first; layers that make tensors of the same few sizes over
// and over would pay for that each time.
#pragma once

#include <memory>

namespace steadyflux {

// While one is alive, tensors of half a MiB and more that this thread makes on the CPU take the
// memory of such that were made and freed meanwhile: all of it where these were as large or hardly
// larger, else pages of several. Memory that is new is taken only for what is missing, so that no
// more is held than all tensors have had at once. Within another one it does nothing. Tensors may
// outlive it, and be freed by any thread.
class ReusedBuffers {
 public:
  ReusedBuffers();
  ~ReusedBuffers();
  ReusedBuffers(const ReusedBuffers&) = delete;
  ReusedBuffers& operator=(const ReusedBuffers&) = delete;

  class Kept;

 private:
  bool outermost_;
};

}  // namespace steadyflux
