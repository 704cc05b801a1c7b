#include "memory/gpu_probe.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "base/utf8.h"

namespace steadyflux {
namespace {

constexpr unsigned kNameLength = 96;  // NVML's own limit

std::string error_text(const Nvml& nvml, int error) {
  const char* text = nvml.error_text ? nvml.error_text(error) : nullptr;
  return text != nullptr ? printable(text) : fmt::format("error {}", error);
}

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// Indices of the cards that CUDA shows, in its order. As there, an entry that is no card ends the
// list, and without the variable it is all of them. Nothing if cards are named in another way.
std::optional<std::vector<unsigned>> visible_cards(const std::optional<std::string>& variable,
                                                   unsigned count) {
  std::vector<unsigned> cards;
  if (!variable) {
    for (unsigned i = 0; i < count; ++i) cards.push_back(i);
    return cards;
  }
  std::string_view rest = *variable;
  while (!trimmed(rest).empty()) {
    const std::size_t comma = rest.find(',');
    const std::string_view entry = trimmed(rest.substr(0, comma));
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    if (entry.starts_with("GPU-") || entry.starts_with("MIG-")) return std::nullopt;
    unsigned index = 0;
    const char* end = entry.data() + entry.size();
    const auto parsed = std::from_chars(entry.data(), end, index);
    if (parsed.ec != std::errc() || parsed.ptr != end || index >= count) break;
    cards.push_back(index);
  }
  return cards;
}

// What one card tells; an error's text if it does not.
std::string read_card(const Nvml& nvml, unsigned index, GpuMemory& gpu) {
  Nvml::Device device = nullptr;
  if (const int error = nvml.handle(index, &device)) return error_text(nvml, error);
  Nvml::MemoryInfo memory;
  if (const int error = nvml.memory(device, &memory)) return error_text(nvml, error);
  gpu.free = static_cast<std::int64_t>(memory.free);
  gpu.total = static_cast<std::int64_t>(memory.total);
  std::array<char, kNameLength + 1> name{};
  if (nvml.name(device, name.data(), kNameLength) == 0) gpu.name = printable(name.data());
  return {};
}

void read_cards(const Nvml& nvml, const GpuEnvironment& environment, GpuProbe& probe) {
  unsigned count = 0;
  if (const int error = nvml.count(&count)) {
    probe.problem =
        fmt::format("NVIDIA's driver does not count its cards: {}", error_text(nvml, error));
    return;
  }
  const auto visible = visible_cards(environment.cuda_visible_devices, count);
  if (!visible) {
    probe.problem = "CUDA_VISIBLE_DEVICES names cards by their ids; only indices are understood";
    return;
  }
  for (const unsigned index : *visible) {
    GpuMemory gpu;
    if (const std::string reason = read_card(nvml, index, gpu); !reason.empty()) {
      // The cards after it would get wrong numbers.
      probe.problem = fmt::format("graphics card {} does not tell its memory: {}", index, reason);
      return;
    }
    probe.gpus.push_back(std::move(gpu));
  }
  if (count == 0) {
    probe.problem = "NVIDIA's driver finds no graphics card";
  } else if (probe.gpus.empty()) {
    probe.problem = "CUDA_VISIBLE_DEVICES hides all graphics cards";
  }
}

// Whether all cards of the machine, not only the visible ones, are of one kind.
bool all_alike(const Nvml& nvml) {
  unsigned count = 0;
  if (nvml.count(&count) != 0) return false;
  GpuMemory first;
  for (unsigned i = 0; i < count; ++i) {
    GpuMemory gpu;
    if (!read_card(nvml, i, gpu).empty()) return false;
    if (i == 0) first = gpu;
    if (gpu.name != first.name || gpu.total != first.total) return false;
  }
  return true;
}

// The symbol as a function of the type that `target` takes; false if there is none.
template <typename Result, typename... Arguments>
bool find(void* library, const char* name, std::function<Result(Arguments...)>& target) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) return false;
  target = reinterpret_cast<Result (*)(Arguments...)>(symbol);
  return true;
}

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing sets it
  return value != nullptr ? std::optional<std::string>(value) : std::nullopt;
}

}  // namespace

GpuEnvironment gpu_environment() {
  return {variable("CUDA_VISIBLE_DEVICES"), variable("CUDA_DEVICE_ORDER")};
}

GpuProbe probe_gpus(const Nvml& nvml, const GpuEnvironment& environment) {
  GpuProbe probe;
  if (const int error = nvml.init()) {
    probe.problem = fmt::format("NVIDIA's driver does not answer: {}", error_text(nvml, error));
    return probe;
  }
  read_cards(nvml, environment, probe);
  if (!probe.gpus.empty() && environment.cuda_device_order != "PCI_BUS_ID") {
    probe.order_is_certain = all_alike(nvml);
  }
  nvml.shutdown();
  return probe;
}

GpuProbe probe_gpus(const GpuEnvironment& environment, const std::string& library) {
  GpuProbe probe;
  const std::unique_ptr<void, int (*)(void*)> handle(
      dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL), &dlclose);
  if (handle == nullptr) {
    probe.problem = "no NVIDIA driver is installed";
    if (const char* reason = dlerror()) probe.problem += fmt::format(" ({})", printable(reason));
    return probe;
  }
  Nvml nvml;
  find(handle.get(), "nvmlErrorString", nvml.error_text);
  const bool complete = find(handle.get(), "nvmlInit_v2", nvml.init) &&
                        find(handle.get(), "nvmlShutdown", nvml.shutdown) &&
                        find(handle.get(), "nvmlDeviceGetCount_v2", nvml.count) &&
                        find(handle.get(), "nvmlDeviceGetHandleByIndex_v2", nvml.handle) &&
                        find(handle.get(), "nvmlDeviceGetName", nvml.name) &&
                        find(handle.get(), "nvmlDeviceGetMemoryInfo", nvml.memory);
  if (!complete) {
    probe.problem = fmt::format(
        "{} is not the library of NVIDIA's driver that was expected; the "
        "driver may be too old",
        printable(library));
    return probe;
  }
  return probe_gpus(nvml, environment);
}

std::size_t card_number(const std::string& device) {
  const auto colon = device.find(':');
  return colon == std::string::npos ? 0 : std::strtoul(device.c_str() + colon + 1, nullptr, 10);
}

}  // namespace steadyflux
