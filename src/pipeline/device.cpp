#include "pipeline/device.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/core/CachingHostAllocator.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <charconv>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// Opens libtorch_cuda, which the loader finds where it found libtorch_cpu; its static initialisers
// register the CUDA kernels. The reason, if that fails. Opening it twice is harmless.
std::optional<std::string> open_cuda_library() {
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) return std::nullopt;
  const char* reason = dlerror();
  return fmt::format("libtorch's CUDA library cannot be opened ({})",
                     reason ? first_line(reason) : "no reason given");
}

struct Problem {
  std::string text;
  ErrorKind kind = ErrorKind::kUsage;
};

// Number of GPUs; `problem` says why there is none.
c10::DeviceIndex count_gpus(Problem& problem) {
  if (const auto reason = open_cuda_library()) {
    problem.text = *reason;
    return 0;
  }
  try {
    const auto count = at::accelerator::deviceCount();
    if (count > 0) {
      // The count can be right with a driver that does not work: ask the device itself.
      at::empty({1}, at::TensorOptions().device(c10::Device(c10::kCUDA, 0)));
      return count;
    }
    problem.text = "libtorch finds no CUDA device; is the NVIDIA driver installed?";
  } catch (const c10::OutOfMemoryError&) {
    problem = {"other programs have taken all of the card's memory", ErrorKind::kDoesNotFit};
  } catch (const c10::Error& e) {
    problem.text = first_line(e.what_without_backtrace());
  }
  return 0;
}

}  // namespace

c10::Device select_device(const std::string& spec, int local_rank) {
  if (spec == "cpu") return c10::Device(c10::kCPU);
  Problem problem;
  if (spec == "auto" || (spec == "cuda" && local_rank > 0)) {
    const auto count = count_gpus(problem);
    if (count > 0) return {c10::kCUDA, static_cast<c10::DeviceIndex>(local_rank % count)};
    if (spec == "auto") return c10::Device(c10::kCPU);
  }
  int index = 0;
  if (spec != "cuda") {
    const char* end = spec.data() + spec.size();
    const bool has_index = spec.rfind("cuda:", 0) == 0 && spec.size() > 5;
    const auto parsed = std::from_chars(spec.data() + (has_index ? 5 : 0), end, index);
    if (!has_index || parsed.ec != std::errc() || parsed.ptr != end || index < 0) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("unknown device '{}': use auto, cpu, cuda or cuda:N", spec));
    }
  }
  const auto count = count_gpus(problem);
  if (count == 0) {
    throw Error(problem.kind, fmt::format("--device {}: {}; use --device cpu", spec, problem.text));
  }
  if (index >= count) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("--device {}: there is no such GPU, the last one is cuda:{}", spec, count - 1));
  }
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

DeviceList list_devices() {
  DeviceList list;
  Problem problem;
  const auto count = count_gpus(problem);
  list.problem = problem.text;
  for (c10::DeviceIndex i = 0; i < count; ++i) {
    const auto [free, total] = at::accelerator::getMemoryInfo(i);
    list.devices.push_back({fmt::format("cuda:{}", static_cast<int>(i)),
                            static_cast<std::int64_t>(free), static_cast<std::int64_t>(total)});
  }
  return list;
}

void reset_device_peak(c10::Device device) {
  if (!device.is_cpu()) at::accelerator::resetPeakStats(device.index());
}

DeviceMemory device_peak(c10::Device device) {
  if (device.is_cpu()) return {};
  const auto sample = sample_device(device);
  return {sample.peak_allocated, sample.peak_reserved};
}

DeviceSample sample_device(c10::Device device) {
  if (device.is_cpu()) return {};
  constexpr auto kAll = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const auto stats = at::accelerator::getDeviceStats(device.index());
  const auto& allocated = stats.allocated_bytes[kAll];
  const auto& reserved = stats.reserved_bytes[kAll];
  return {.allocated = allocated.current,
          .reserved = reserved.current,
          .peak_allocated = allocated.peak,
          .peak_reserved = reserved.peak,
          .alloc_retries = stats.num_alloc_retries};
}

void synchronize_device(c10::Device device) {
  if (!device.is_cpu()) at::accelerator::synchronizeDevice(device.index());
}

void release_device_memory(c10::Device device) {
  if (device.is_cpu()) return;
  at::accelerator::emptyCache();
  at::getHostAllocator(device.type())->empty_cache();
}

}  // namespace steadyflux
