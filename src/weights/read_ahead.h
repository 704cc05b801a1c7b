// Brings weights from the disk into the kernel's page cache before they are wanted, in a thread of
// its own: those named first go first, and no more is under way at a time than keeps a disk busy,
// so that whoever needs other pages now does not wait behind it. The pages are the kernel's, not
// this process's, until they are touched.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "weights/component_weights.h"
#include "weights/mapped_file.h"

namespace steadyflux {

class ReadAhead {
 public:
  struct Source {
    ComponentWeights weights;
    std::int64_t most = 0;  // bytes of it
  };
  explicit ReadAhead(const std::vector<Source>& sources);
  ~ReadAhead();  // what is not begun is left
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  void wait();  // until everything is there

 private:
  struct Stretch {
    std::shared_ptr<const MappedFile> file;
    std::span<const std::byte> bytes;
  };
  static std::vector<Stretch> stretches_of(const Source& source);
  void run() noexcept;
  bool bring(const std::byte* begin, std::size_t size);

  std::vector<Stretch> stretches_;
  std::mutex mutex_;  // guards stop_
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

// Tells the kernel that these bytes of a mapped file are wanted soon; returns at once.
void will_need(std::span<const std::byte> mapped);

// The share of these bytes, from 0 to 1, that the page cache holds.
double share_in_page_cache(std::span<const std::byte> mapped);

}  // namespace steadyflux
