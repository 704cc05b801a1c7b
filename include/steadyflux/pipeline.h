// The public face of the library: a request goes in, pictures come out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "steadyflux/error.h"

namespace steadyflux {

struct Plan;            // memory/plan.h
struct MemoryTimeline;  // memory/timeline.h

// One prompt and what to do with it. Validated by Pipeline::check.
struct Request {
  std::string prompt;                      // UTF-8, may be empty
  std::int64_t width = 1024;               // pixels, a multiple of 16
  std::int64_t height = 1024;              // pixels, a multiple of 16
  std::int64_t num_inference_steps = 4;    // >= 1
  double guidance_scale = 3.5;             // used by models with guidance_embeds only
  std::uint64_t seed = 0;                  // of the first picture; picture i has seed + i
  std::int64_t num_images = 1;             // >= 1
  std::int64_t max_sequence_length = 512;  // T5 tokens, 1..512
};

// 8-bit RGB, rows from top to bottom, no padding.
struct Image {
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::vector<std::uint8_t> rgb;
};

// Measured over one phase. Bytes and seconds.
struct PhaseStats {
  std::string name;  // "encode", "modulate", "denoise", "decode"
  double seconds = 0;
  double load_seconds = 0;                 // part of `seconds` spent opening weights
  std::int64_t device_peak_allocated = 0;  // 0 on the CPU
  std::int64_t device_peak_reserved = 0;
  std::int64_t peak_rss = 0;
  std::int64_t peak_rss_anon = 0;
  std::int64_t peak_rss_file = 0;
  std::int64_t major_faults = 0;
  std::int64_t disk_read = 0;         // that came from a disk
  std::int64_t swap = 0;              // largest VmSwap seen
  std::int64_t predicted_device = 0;  // by the plan, to compare with device_peak_allocated
  std::int64_t predicted_ram = 0;     // by the plan, to compare with peak_rss
};

// Told what happens while pictures are made. All calls come from the thread that called generate.
class Observer {
 public:
  virtual ~Observer() = default;
  // Before anything is loaded, and when memory makes another plan necessary.
  virtual void planned(const Plan& /*plan*/) {}
  // At the end of generate, also when it ends by an exception.
  virtual void memory_seen(const MemoryTimeline& /*timeline*/) {}
  virtual void phase_started(const std::string& /*name*/, std::int64_t /*total_steps*/) {}
  virtual void phase_progress(std::int64_t /*steps_done*/) {}
  virtual void phase_finished(const PhaseStats& /*stats*/) {}
  virtual void warning(const std::string& /*message*/) {}
  // Asked between steps; a non-zero signal number ends the work with Interrupted.
  virtual int interrupt_signal() { return 0; }
};

struct PipelineOptions {
  std::filesystem::path model;  // a diffusers folder
  std::string device = "auto";  // auto, cpu, cuda, cuda:N
  std::string dtype = "auto";   // auto (that of the transformer's weights), bf16, fp16, fp32
  int num_threads = 0;          // 0: as many as there are physical cores for this process
  // At most this much of what is there, bytes. The device's context counts as well.
  std::optional<std::int64_t> max_vram = {};
  std::optional<std::int64_t> max_ram = {};
  std::string vae_tiling = "auto";     // auto (as memory demands), on, off
  std::string on_pressure = "replan";  // when memory is short while it works: replan, warn, abort
};

class Pipeline {
 public:
  // Reads the configuration files and the weight files' headers, picks device and dtype; loads no
  // weights.
  explicit Pipeline(const PipelineOptions& options);
  ~Pipeline();
  Pipeline(Pipeline&&) noexcept;
  Pipeline& operator=(Pipeline&&) noexcept;

  // Throws Error{kUsage} if the request cannot be carried out by this model.
  void check(const Request& request) const;

  // How the request would be carried out with the memory there is now.
  Plan plan(const Request& request) const;

  // Encodes, releases the encoders, denoises, releases the transformer, decodes. `on_image` gets
  // every picture as soon as it is decoded, in order, with its index. Throws Error{kDoesNotFit} if
  // no plan fits; when memory runs out all the same, it goes on by a leaner plan, and ends only
  // where there is none, after it has given what was finished.
  void generate(const Request& request, Observer& observer,
                const std::function<void(std::int64_t index, Image image)>& on_image);

  const std::string& device_name() const;  // "cpu", "cuda:0"
  const std::string& dtype_name() const;   // "bf16", "fp16", "fp32"
  int num_threads() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace steadyflux
