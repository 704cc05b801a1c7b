#include "weights/read_ahead.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "base/quiet_thread.h"

namespace steadyflux {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kSlice = std::size_t{16} << 20;
constexpr std::size_t kAsk = std::size_t{128} << 10;  // of more at a time the kernel leaves a part
constexpr std::size_t kLargestGap = std::size_t{1} << 20;  // read over rather than jumped
constexpr std::chrono::milliseconds kPause{2};
constexpr int kMostPauses = 1000;  // for one slice: then the disk is too busy, or something is odd

const std::byte* page_of(const std::byte* address) {
  return address - reinterpret_cast<std::uintptr_t>(address) % kPage;
}

}  // namespace

void will_need(std::span<const std::byte> mapped) {
  const auto* end = mapped.data() + mapped.size();
  for (const auto* at = page_of(mapped.data()); at < end; at += kAsk) {
    const auto size = std::min(kAsk, static_cast<std::size_t>(end - at));
    ::madvise(const_cast<std::byte*>(at), size, MADV_WILLNEED);
  }
}

double share_in_page_cache(std::span<const std::byte> mapped) {
  const auto* begin = page_of(mapped.data());
  const auto size = static_cast<std::size_t>(mapped.data() + mapped.size() - begin);
  std::vector<unsigned char> pages((size + kPage - 1) / kPage);
  if (pages.empty()) return 1;
  if (::mincore(const_cast<std::byte*>(begin), size, pages.data()) != 0) return 1;
  const auto there =
      std::accumulate(pages.begin(), pages.end(), std::size_t{0},
                      [](std::size_t n, unsigned char page) { return n + page % 2; });
  return static_cast<double>(there) / static_cast<double>(pages.size());
}

ReadAhead::ReadAhead(const std::vector<Source>& sources) {
  for (const auto& source : sources) {
    for (auto& stretch : stretches_of(source)) stretches_.push_back(std::move(stretch));
  }
  thread_ = start_quiet_thread([this] { run(); });
}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void ReadAhead::wait() {
  if (thread_.joinable()) thread_.join();
}

// In the order of the file, neighbours together.
std::vector<ReadAhead::Stretch> ReadAhead::stretches_of(const Source& source) {
  std::vector<Stretch> all;
  for (const auto& [name, tensor] : source.weights.tensors()) {
    for (const auto& rows : tensor.rows) {
      for (const auto* view : rows.views()) {
        all.push_back({view->file, {view->data, view->nbytes}});
      }
    }
  }
  std::sort(all.begin(), all.end(),
            [](const Stretch& a, const Stretch& b) { return a.bytes.data() < b.bytes.data(); });
  std::vector<Stretch> merged;
  auto left = static_cast<std::size_t>(std::max<std::int64_t>(source.most, 0));
  for (auto& stretch : all) {
    if (left == 0) break;
    stretch.bytes = stretch.bytes.first(std::min(stretch.bytes.size(), left));
    left -= stretch.bytes.size();
    if (!merged.empty() && merged.back().file == stretch.file) {
      auto& last = merged.back().bytes;
      const auto* end = stretch.bytes.data() + stretch.bytes.size();
      if (stretch.bytes.data() <= last.data() + last.size() + kLargestGap) {
        last = {last.data(), std::max(last.data() + last.size(), end)};
        continue;
      }
    }
    merged.push_back(std::move(stretch));
  }
  return merged;
}

void ReadAhead::run() noexcept {
  for (const auto& stretch : stretches_) {
    const auto* begin = page_of(stretch.bytes.data());
    const auto* end = stretch.bytes.data() + stretch.bytes.size();
    for (; begin < end; begin += std::min(kSlice, static_cast<std::size_t>(end - begin))) {
      if (!bring(begin, std::min(kSlice, static_cast<std::size_t>(end - begin)))) return;
    }
  }
}

// False if it was told to stop.
bool ReadAhead::bring(const std::byte* begin, std::size_t size) {
  const auto stopped = [this] { return stop_; };
  for (int i = 0; i < kMostPauses; ++i) {
    if (share_in_page_cache({begin, size}) == 1) break;
    if (i == 0) will_need({begin, size});
    std::unique_lock lock(mutex_);
    if (wake_.wait_for(lock, kPause, stopped)) return false;
  }
  const std::lock_guard lock(mutex_);
  return !stop_;
}

}  // namespace steadyflux
