#include "batch/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>

#include "base/file_io.h"
#include "base/json.h"
#include "base/utf8.h"
#include "batch/settings_key.h"
#include "image/output_file.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

static_assert(sizeof(off_t) == 8, "claims lie beyond 4 EiB");

constexpr int kVersion = 1;
// No file is as long as this: claims lie behind, and the place that whoever appends holds before.
constexpr off_t kFirstClaim = off_t{1} << 62;
constexpr off_t kAppendPlace = kFirstClaim - 1;
constexpr std::size_t kReadSize = 256 << 10;
constexpr std::size_t kWarningsShown = 5;

off_t claim_place(const std::string& output) {
  return kFirstClaim | static_cast<off_t>(text_hash(output) >> 2);
}

enum class Lock { kHeld, kRefused, kUnsupported };

// A lock of one byte at `place` that belongs to the open file: other openings of it, in this
// process or another, are kept out. `type`: F_RDLCK, F_WRLCK, F_UNLCK.
Lock set_lock(int fd, int command, short type, off_t place) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = place;
  lock.l_len = 1;
  while (::fcntl(fd, command, &lock) != 0) {
    if (errno == EINTR) continue;
    return errno == EAGAIN || errno == EACCES ? Lock::kRefused : Lock::kUnsupported;
  }
  return Lock::kHeld;
}

bool has_string(const json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_string();
}

// The number of bytes a line tells of, if that is what "bytes" is.
std::optional<std::int64_t> bytes_of(const json& line) {
  const auto found = line.find("bytes");
  if (found == line.end() || !found->is_number_integer()) return std::nullopt;
  if (found->is_number_unsigned() &&
      found->get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
    return std::nullopt;
  }
  const auto bytes = found->get<std::int64_t>();
  if (bytes < 0) return std::nullopt;
  return bytes;
}

// What is wrong with a line, or nothing.
const char* fault_of(const json& line) {
  if (!line.is_object()) return "it is no JSON object";
  if (!has_string(line, "event")) return "it has no string 'event'";
  if (!has_string(line, "output")) return "it has no string 'output'";
  const std::string& event = line["event"].get_ref<const std::string&>();
  if (event == "done" || event == "started") {
    if (!has_string(line, "settings")) return "it has no string 'settings'";
  }
  if (event == "done" && !bytes_of(line)) return "it has no number 'bytes'";
  const auto version = line.find("version");
  if (version != line.end() && *version != kVersion) return "its version is not known";
  return nullptr;
}

// A tail without a newline that is a whole object lacks only the newline: no beginning of an object
// is an object.
bool is_whole_line(std::string_view tail, const fs::path& path) {
  try {
    return fault_of(parse_json(tail, path)) == nullptr;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

struct Journal::State {
  fs::path path;
  int fd = -1;

  mutable std::mutex mutex;
  std::deque<JournalEntry> entries;                   // never moved: find() gives pointers out
  std::map<std::string, const JournalEntry*> latest;  // by output
  std::map<std::string, std::string> started;         // output -> settings
  off_t read_to = 0;                                  // the end of the last whole line read
  std::int64_t lines = 0;                             // before read_to
  std::vector<std::string> warnings;
  std::size_t damaged = 0;              // lines
  std::map<off_t, std::string> claims;  // place -> output
  bool locks = true;                    // the file system has them

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (fd >= 0) ::close(fd);
  }

  Error io_error(const char* what, int error) const {
    return steadyflux::io_error(path, what, error);
  }

  struct stat info() const {
    struct stat info {};
    if (::fstat(fd, &info) != 0) throw io_error("cannot be looked at", errno);
    if (info.st_nlink == 0) {
      throw Error(ErrorKind::kIo,
                  fmt::format("{}: was removed or replaced while it was in use; run the same "
                              "command again",
                              path.string()));
    }
    return info;
  }

  // Without locks one process alone works as well as ever.
  bool lock(int command, short type, off_t place) {
    if (!locks) return true;
    const Lock result = set_lock(fd, command, type, place);
    if (result == Lock::kUnsupported) {
      locks = false;
      warnings.push_back(
          fmt::format("{}: this file system has no locks; let only one process work in this folder",
                      path.string()));
    }
    return result != Lock::kRefused;
  }

  // Held by one who appends (F_WRLCK), or those who read (F_RDLCK): a line that is taken back again
  // was never read by anybody.
  class AppendLock {
   public:
    AppendLock(State& state, short type) : state_(state) {
      state_.lock(F_OFD_SETLKW, type, kAppendPlace);
    }
    ~AppendLock() {
      if (state_.locks) set_lock(state_.fd, F_OFD_SETLK, F_UNLCK, kAppendPlace);
    }
    AppendLock(const AppendLock&) = delete;
    AppendLock& operator=(const AppendLock&) = delete;

   private:
    State& state_;
  };

  void take_line(std::string_view text) {
    ++lines;
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) return;
    json line;
    const char* fault = nullptr;
    try {
      line = parse_json(text, path);
      fault = fault_of(line);
    } catch (const Error&) {
      fault = "it is damaged";
    }
    if (fault != nullptr) {
      if (++damaged <= kWarningsShown) {
        warnings.push_back(
            fmt::format("{}:{}: the line is passed over: {}", path.string(), lines, fault));
      }
      return;
    }
    const std::string event = line["event"];
    const std::string output = line["output"];
    if (event == "started") started[output] = line["settings"];
    if (event != "done") return;
    const std::string settings = line["settings"];
    const std::int64_t bytes = *bytes_of(line);
    entries.push_back({output, settings, bytes, std::move(line)});
    latest[output] = &entries.back();
  }

  std::size_t read_at(off_t at, char* buffer, std::size_t size) const {
    while (true) {
      const ssize_t got = ::pread(fd, buffer, size, at);
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) throw io_error("cannot be read", errno);
    }
  }

  // Takes the whole lines behind read_to, and gives back what stands behind the last newline.
  std::string read_new() {
    if (info().st_size < read_to) {
      warnings.push_back(
          fmt::format("{}: became shorter while it was in use; it is read again", path.string()));
      latest.clear();
      started.clear();
      read_to = 0;
      lines = 0;
    }
    std::string text;
    std::size_t searched = 0;
    while (true) {
      const std::size_t had = text.size();
      text.resize(had + kReadSize);
      text.resize(had + read_at(read_to + static_cast<off_t>(had), text.data() + had, kReadSize));
      if (text.size() == had) return text;
      std::size_t begin = 0;
      for (std::size_t end; (end = text.find('\n', std::max(begin, searched))) != std::string::npos;
           begin = end + 1) {
        take_line(std::string_view(text).substr(begin, end - begin));
      }
      text.erase(0, begin);
      read_to += static_cast<off_t>(begin);
      searched = text.size();
    }
  }

  // Prepares the end of the file for a line of its own: gives back what must be written before it.
  std::string mend_tail(const std::string& tail) {
    if (tail.empty()) return "";
    // Half a line of a journal, or zeros that a power failure left: taken away. What is neither was
    // not written by a journal, and is none of its business.
    const bool ours = tail.front() == '{' || tail.front() == '\0';
    if (!ours || is_whole_line(tail, path)) return "\n";
    if (::ftruncate(fd, read_to) != 0) throw io_error("cannot take half a line back", errno);
    return "";
  }

  void write_whole(std::string_view text) {
    const off_t before = info().st_size;
    while (!text.empty()) {
      const ssize_t written = ::write(fd, text.data(), text.size());
      if (written >= 0) {
        text.remove_prefix(static_cast<std::size_t>(written));
      } else if (errno != EINTR) {
        const int error = errno;
        // If that fails as well, the next one who appends does it.
        if (::ftruncate(fd, before) != 0) throw io_error("cannot write, nor take it back", error);
        throw io_error("cannot write", error);
      }
    }
  }
};

Journal::Journal(std::unique_ptr<State> state) : state_(std::move(state)) {}
Journal::Journal(Journal&&) noexcept = default;
Journal& Journal::operator=(Journal&&) noexcept = default;
Journal::~Journal() = default;

Journal Journal::open(const fs::path& folder, const std::string& file_name) {
  auto state = std::make_unique<State>();
  state->path = folder / file_name;
  constexpr int kFlags = O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  state->fd = ::open(state->path.c_str(), kFlags, 0666);
  if (state->fd < 0) throw state->io_error("cannot be opened for reading and writing", errno);
  const struct stat info = state->info();
  if (!S_ISREG(info.st_mode)) {
    throw Error(ErrorKind::kBadInput, state->path.string() + ": is no file; move it away");
  }
  if (info.st_size == 0) flush_folder(folder);
  Journal journal(std::move(state));
  journal.refresh();
  return journal;
}

const fs::path& Journal::path() const { return state_->path; }

void Journal::refresh() {
  const std::lock_guard guard(state_->mutex);
  const State::AppendLock lock(*state_, F_RDLCK);
  state_->read_new();
}

const JournalEntry* Journal::find(const std::string& output) const {
  const std::lock_guard guard(state_->mutex);
  const auto found = state_->latest.find(output);
  return found == state_->latest.end() ? nullptr : found->second;
}

std::optional<std::string> Journal::started(const std::string& output) const {
  const std::lock_guard guard(state_->mutex);
  const auto found = state_->started.find(output);
  if (found == state_->started.end()) return std::nullopt;
  return found->second;
}

std::vector<const JournalEntry*> Journal::done() const {
  const std::lock_guard guard(state_->mutex);
  std::vector<const JournalEntry*> result;
  result.reserve(state_->latest.size());
  for (const auto& [output, entry] : state_->latest) result.push_back(entry);
  return result;
}

std::vector<std::string> Journal::warnings() const {
  const std::lock_guard guard(state_->mutex);
  std::vector<std::string> result = state_->warnings;
  if (state_->damaged > kWarningsShown) {
    result.push_back(fmt::format("{}: {} more lines are passed over", state_->path.string(),
                                 state_->damaged - kWarningsShown));
  }
  return result;
}

void Journal::append(const json& line) {
  if (const char* fault = fault_of(line)) {
    throw Error(ErrorKind::kInternal, fmt::format("a journal line is wrong: {}", fault));
  }
  const std::string& output = line["output"].get_ref<const std::string&>();
  if (!is_valid_utf8(output)) {
    throw Error(ErrorKind::kBadInput,
                fmt::format("'{}': names of outputs must be UTF-8", printable(output)));
  }
  const std::string text = line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  const std::lock_guard guard(state_->mutex);
  const State::AppendLock lock(*state_, F_WRLCK);
  state_->write_whole(state_->mend_tail(state_->read_new()) + text);
  if (::fdatasync(state_->fd) != 0) throw state_->io_error("cannot flush to the disk", errno);
  state_->read_new();
}

bool Journal::try_claim(const std::string& output) {
  const std::lock_guard guard(state_->mutex);
  state_->info();  // a lock on a removed journal keeps nobody out
  const off_t place = claim_place(output);
  if (state_->claims.count(place) != 0) return false;
  if (!state_->lock(F_OFD_SETLK, F_WRLCK, place)) return false;
  try {
    state_->claims.emplace(place, output);
    const State::AppendLock lock(*state_, F_RDLCK);
    state_->read_new();
  } catch (...) {
    state_->claims.erase(place);
    if (state_->locks) set_lock(state_->fd, F_OFD_SETLK, F_UNLCK, place);
    throw;
  }
  return true;
}

void Journal::release(const std::string& output) {
  const std::lock_guard guard(state_->mutex);
  const auto found = state_->claims.find(claim_place(output));
  if (found == state_->claims.end() || found->second != output) return;
  if (state_->locks) set_lock(state_->fd, F_OFD_SETLK, F_UNLCK, found->first);
  state_->claims.erase(found);
}

json journal_line(std::string_view event, const std::string& output) {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::array<char, 32> time{};
  std::strftime(time.data(), time.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  return {{"version", kVersion}, {"event", event},      {"output", output},
          {"time", time.data()}, {"host", host.data()}, {"pid", ::getpid()}};
}

}  // namespace steadyflux
