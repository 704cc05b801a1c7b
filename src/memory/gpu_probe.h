// Free and total memory of the graphics cards, from NVIDIA's management library (NVML, part of the
// driver): no CUDA context is created, which alone takes hundreds of megabytes of a card, and
// nothing of libtorch or CUDA need be there. The library is opened when asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace steadyflux {

struct GpuMemory {
  std::string name;        // "NVIDIA GeForce RTX 3060"
  std::int64_t free = 0;   // bytes
  std::int64_t total = 0;  // bytes
};

struct GpuProbe {
  std::vector<GpuMemory> gpus;  // as CUDA_VISIBLE_DEVICES orders them: gpus[N] is cuda:N
  std::string problem;          // why there is none, or not all; empty if all is well
  // NVML counts cards by their place on the bus, CUDA the fastest first unless CUDA_DEVICE_ORDER is
  // PCI_BUS_ID. False where that may make a difference: several cards of different kinds.
  bool order_is_certain = true;
};

// NVML's functions, as far as they are needed. Each gives 0, or the number of an error.
struct Nvml {
  struct MemoryInfo {  // nvmlMemory_t
    unsigned long long total = 0;
    unsigned long long free = 0;
    unsigned long long used = 0;
  };
  using Device = void*;
  std::function<int()> init;
  std::function<int()> shutdown;
  std::function<int(unsigned* count)> count;
  std::function<int(unsigned index, Device* device)> handle;
  std::function<int(Device device, char* name, unsigned length)> name;
  std::function<int(Device device, MemoryInfo* memory)> memory;
  std::function<const char*(int error)> error_text;  // may be empty
};

// The variables that say which cards CUDA shows to this process.
struct GpuEnvironment {
  std::optional<std::string> cuda_visible_devices;
  std::optional<std::string> cuda_device_order;
};
GpuEnvironment gpu_environment();  // of this process

GpuProbe probe_gpus(const Nvml& nvml, const GpuEnvironment& environment);
// Opens `library`, asks, and closes it.
GpuProbe probe_gpus(const GpuEnvironment& environment = gpu_environment(),
                    const std::string& library = "libnvidia-ml.so.1");

// N of "cuda:N"; 0 for other names of devices.
std::size_t card_number(const std::string& device);

}  // namespace steadyflux
