// An accelerator for tests, on machines that have none: libtorch's PrivateUse1 slot, called
// "simulated". It computes by libtorch's CPU fallback, but is a device of its own in what matters:
//  - its addresses cannot be read or written by the host, so a tensor used on the wrong side ends
//  in
//    an error or a fault, never in a right result by luck;
//  - its allocator counts, caches freed memory as CUDA's does, and runs out of memory above a limit
//    or at a chosen allocation;
//  - copies from pinned memory that need not block are carried out late, at the next kernel or when
//    somebody waits for them, so a pinned buffer that is reused too early shows.
// Linking simulated_device.cpp into a program is enough to have it; there is one device, index 0.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace steadyflux::testing {

c10::Device simulated_device();

// Bytes the device has; an allocation that would exceed them throws c10::OutOfMemoryError.
constexpr std::int64_t kNoLimit = std::int64_t{1} << 40;
void set_device_limit(std::int64_t bytes);

// The n-th allocation from now on (1 is the next) throws c10::OutOfMemoryError, once. 0: none does.
// Starts the count of device_allocations() anew.
void fail_at_allocation(std::int64_t n);
std::int64_t device_allocations();

// Now, and pinned host memory: in use, and kept for later use until the host cache is emptied.
std::int64_t device_bytes();
std::int64_t pinned_bytes_in_use();
std::int64_t pinned_bytes_cached();

}  // namespace steadyflux::testing
