// An accelerator for tests, on machines that have none: libtorch's PrivateUse1 slot, called
// "simulated". It computes with the CPU's kernels, but is a device of its own in what matters:
//  - its addresses cannot be read or written by the host, so a tensor used on the wrong side ends
//    in an error or a fault, never in a right result by luck; new memory is all NaN;
//  - its allocator counts, caches freed memory as CUDA's does, and runs out of memory above a limit
//    or at chosen allocations;
//  - copies to and from pinned memory that need not block are carried out late: at the next kernel
//    of their stream, or when somebody waits for them, so a pinned buffer that is reused too early
//    shows, and a stream that does not wait for another reads what was there before;
//  - graphs are recorded and replayed; what would wait for the host meanwhile is refused, and what
//    kernels gave meanwhile is NaN until the replay;
//  - operations of two streams on the same memory, one of them writing, with neither waiting for
//    the other, throw c10::Error ("race: ..."), whether or not it went well this time.
// Linking simulated_device.cpp into a program is enough to have it; there is one device, index 0.
// Any thread may use it; the current stream is each thread's own.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace steadyflux::testing {

c10::Device simulated_device();

// Bytes the device has; an allocation that would exceed them throws c10::OutOfMemoryError.
constexpr std::int64_t kNoLimit = std::int64_t{1} << 40;
void set_device_limit(std::int64_t bytes);

// The n-th allocation from now on (1 is the next) throws c10::OutOfMemoryError, once; or it and all
// later ones. 0: none does. Both start the count of device_allocations() anew, and end the other.
void fail_at_allocation(std::int64_t n);
void fail_from_allocation(std::int64_t n);
std::int64_t device_allocations();

// Bytes: now; of the largest allocation since the device's peaks were reset; of pinned host memory
// in use, and kept for later use until the host cache is emptied.
std::int64_t device_bytes();
std::int64_t largest_device_allocation();
std::int64_t pinned_bytes_in_use();
std::int64_t pinned_bytes_cached();

// Graphs that were replayed, since the beginning.
std::int64_t graph_replays();

// Off: a race goes on with what it finds, as on a real device. On at the start.
void set_race_checks(bool on);

}  // namespace steadyflux::testing
