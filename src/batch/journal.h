// journal.jsonl: what a batch has finished in its output folder, one JSON object a line, so that
// the same command run again goes on where it was stopped. Lines are on the disk when append()
// returns. Several processes may share one folder: appending is serialised, and a picture is made
// by the one that claimed it. Claims are locks of the operating system on places of the journal far
// behind its end: they end with the process, whatever kills it. docs/journal.md has the schema.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace steadyflux {

struct JournalEntry {
  std::string output;    // relative to the folder, generic form
  std::string settings;  // settings_key() of what made it
  std::int64_t bytes = 0;
  nlohmann::json all;  // the whole line
};

// All functions may be called from several threads at once.
class Journal {
 public:
  // Opens or creates the journal in `folder`, which exists. A last line that was cut off is no
  // entry; other lines that are no journal lines are passed over, and warnings() tells of them.
  // Throws Error: kIo if it cannot be opened, read or written to; kBadInput if it is no file.
  static Journal open(const std::filesystem::path& folder,
                      const std::string& file_name = "journal.jsonl");
  Journal(Journal&&) noexcept;
  Journal& operator=(Journal&&) noexcept;
  ~Journal();  // releases all claims

  const std::filesystem::path& path() const;

  // Reads what was appended since, by any process. Throws Error{kIo}.
  void refresh();

  // The last line "done" of `output`, or nullptr. It stays valid as long as the journal.
  const JournalEntry* find(const std::string& output) const;
  // The settings of the last line "started" of `output`, if there is one.
  std::optional<std::string> started(const std::string& output) const;
  // The last line "done" of each output, sorted by output. Valid as long as the journal.
  std::vector<const JournalEntry*> done() const;
  std::vector<std::string> warnings() const;

  // `line` is an object with the strings "event" and "output"; "started" and "done" have the
  // string "settings", "done" also the integer "bytes". It is on the disk when this returns, and
  // find() knows it. Throws Error{kIo}, and nothing of the line stays if it could not be written
  // whole (disk full); kBadInput if "output" is no UTF-8; kInternal if a field is missing.
  void append(const nlohmann::json& line);

  // True: nobody had `output`, this object has it now, until release() or the end of the process.
  // False: it is claimed already, by whomever, this object included. Now and then another name has
  // the same place, and is taken for claimed too. After true, find() knows everything that was
  // appended before, so look once more whether it is done. Throws Error{kIo}.
  bool try_claim(const std::string& output);
  void release(const std::string& output);

 private:
  struct State;
  explicit Journal(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// A line with what all lines have: version, event, output, time (UTC), host, pid.
nlohmann::json journal_line(std::string_view event, const std::string& output);

}  // namespace steadyflux
