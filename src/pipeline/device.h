// Which device to run on. The program links libtorch_cpu only; the CUDA library beside it is opened
// when a CUDA device is asked for (or looked for), and registers its kernels in this process.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "memory/timeline.h"

namespace steadyflux {

// "cpu", "cuda", "cuda:N" or "auto" (the first GPU if there is one). Throws Error{kUsage} with the
// reason if the device asked for is not there.
// `local_rank`: of several processes on this machine, which take a card each.
c10::Device select_device(const std::string& spec, int local_rank = 0);

struct DeviceInfo {
  std::string name;        // "cuda:0"
  std::int64_t free = 0;   // bytes
  std::int64_t total = 0;  // bytes
};

// The GPUs there are, and, if there are none, why.
struct DeviceList {
  std::vector<DeviceInfo> devices;
  std::string problem;  // empty if there is a device
};
DeviceList list_devices();

// Bytes the device's allocator holds now and at its peak since reset_device_peak.
struct DeviceMemory {
  std::int64_t peak_allocated = 0;
  std::int64_t peak_reserved = 0;
};
void reset_device_peak(c10::Device device);
DeviceMemory device_peak(c10::Device device);
// All numbers of the device's allocator; zeros on the CPU. From any thread.
DeviceSample sample_device(c10::Device device);

// Waits for the device's work; gives cached blocks back, those of pinned host memory too.
void synchronize_device(c10::Device device);
void release_device_memory(c10::Device device);

}  // namespace steadyflux
