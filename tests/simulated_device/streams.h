// Streams of the simulated device: what is still to be done on each, and who has waited for whom.
//
// Kernels are carried out when they are called. Copies that need not block, and waits for events,
// are put off until somebody needs them, so that each comes as late as it may. Every operation has
// a number in its stream, and every stream knows which operations of the others are over when its
// next one starts: two operations that touch the same memory, at least one of them writing, with
// neither known to be over for the other, are a race, whatever came out this time.
//
// No locks in here: the device's mutex is held around every call.
#pragma once

#include <c10/core/Stream.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>

namespace steadyflux::testing {

using StreamNumber = c10::StreamId;

class Streams {
 public:
  // How many operations of each stream are over.
  using Clock = std::map<StreamNumber, std::int64_t>;

  // The last operations that touched some memory.
  struct Uses {
    Clock readers;  // since it was written
    StreamNumber writer = 0;
    std::int64_t written = 0;
  };

  struct Event {
    StreamNumber stream = 0;
    std::int64_t queued = 0;
    Clock over;
  };

  // --- operations ---

  // A new operation that is carried out now, after all that was put off on its stream.
  std::int64_t start(StreamNumber stream) {
    throw_complaint();
    run(stream);
    return ++at(stream).count;
  }
  // A new operation that is carried out later; defer() says what it does.
  std::int64_t start_late(StreamNumber stream) {
    throw_complaint();
    return ++at(stream).count;
  }
  void defer(StreamNumber stream, std::function<void()> task) {
    auto& s = at(stream);
    s.tasks.push_back(std::move(task));
    ++s.queued;
  }

  void read(Uses& uses, StreamNumber stream, std::int64_t number, const std::string& what) {
    check_written(uses, stream, what + " reads");
    uses.readers[stream] = number;
  }
  void write(Uses& uses, StreamNumber stream, std::int64_t number, const std::string& what) {
    check_written(uses, stream, what + " writes");
    for (const auto& [reader, read] : uses.readers) {
      if (!is_over(reader, read, stream)) race(stream, reader, what + " writes");
    }
    uses = {{}, stream, number};
  }
  // Memory that `stream` gets may have been in use by its operations until now.
  Uses uses_of_new_memory(StreamNumber stream) { return {{}, stream, at(stream).count}; }
  // Memory that belongs to `stream` is given up; `safe` says whether another stream was recorded.
  void give_up(const Uses& uses, StreamNumber stream,
               const std::function<bool(StreamNumber)>& safe) {
    auto all = uses.readers;
    all[uses.writer] = std::max(all[uses.writer], uses.written);
    for (const auto& [user, number] : all) {
      if (is_over(user, number, stream) || safe(user) || !checks_) continue;
      complaint_ = message(stream, user, "it gets back");
    }
  }

  // --- events ---

  Event record(StreamNumber stream) {
    auto& s = at(stream);
    auto over = s.over;
    over[stream] = s.count;
    return {stream, s.queued, std::move(over)};
  }
  void wait(StreamNumber stream, const Event& event) {
    raise(at(stream).over, event.over);
    defer(stream,
          [this, other = event.stream, queued = event.queued] { run_until(other, queued); });
  }
  // Whether it is over; if not, the device gets one task further, so that asking again and again
  // comes to an end.
  bool query(const Event& event) {
    auto& s = at(event.stream);
    if (s.done >= event.queued) {
      raise(over_for_all_, event.over);
      return true;
    }
    run_until(event.stream, s.done + 1);
    return false;
  }
  void finish(const Event& event) {
    run_until(event.stream, event.queued);
    raise(over_for_all_, event.over);
    throw_complaint();
  }
  void finish(StreamNumber stream) { finish(record(stream)); }
  void finish_all() {
    for (auto& [stream, state] : streams_) finish(stream);
    // All is over for everybody, so what streams knew of each other says nothing more. (It would
    // grow with every stream there ever was.)
    for (auto& [stream, state] : streams_) state.over.clear();
  }

  StreamNumber add() { return ++last_; }
  void set_checks(bool on) {
    checks_ = on;
    complaint_.clear();
  }

 private:
  struct State {
    std::int64_t count = 0;  // operations so far
    Clock over;              // when its next operation starts
    std::deque<std::function<void()>> tasks;
    std::int64_t queued = 0, done = 0;  // tasks so far
  };

  State& at(StreamNumber stream) { return streams_[stream]; }

  void run_until(StreamNumber stream, std::int64_t number) {
    auto& s = at(stream);
    while (s.done < number) {
      const auto task = std::move(s.tasks.front());
      s.tasks.pop_front();
      ++s.done;
      task();
    }
  }
  void run(StreamNumber stream) { run_until(stream, at(stream).queued); }

  static void raise(Clock& clock, const Clock& other) {
    for (const auto& [stream, number] : other) clock[stream] = std::max(clock[stream], number);
  }
  static std::int64_t look_up(const Clock& clock, StreamNumber stream) {
    const auto it = clock.find(stream);
    return it == clock.end() ? 0 : it->second;
  }
  // Whether an operation is over for the next operation on `stream`.
  bool is_over(StreamNumber user, std::int64_t number, StreamNumber stream) {
    return user == stream || number <= look_up(over_for_all_, user) ||
           number <= look_up(at(stream).over, user);
  }
  void check_written(const Uses& uses, StreamNumber stream, const std::string& what) {
    if (!is_over(uses.writer, uses.written, stream)) race(stream, uses.writer, what);
  }

  static std::string message(StreamNumber stream, StreamNumber other, const std::string& what) {
    return "race: stream " + std::to_string(stream) + ": " + what + " memory that stream " +
           std::to_string(other) + " may still be using";
  }
  void race(StreamNumber stream, StreamNumber other, const std::string& what) const {
    TORCH_CHECK(!checks_, message(stream, other, what));
  }
  // What was found where nothing may be thrown.
  void throw_complaint() {
    const auto text = std::exchange(complaint_, {});
    TORCH_CHECK(text.empty(), text);
  }

  std::map<StreamNumber, State> streams_;
  Clock over_for_all_;  // somebody on the host has waited for these
  StreamNumber last_ = 0;
  bool checks_ = true;
  std::string complaint_;
};

}  // namespace steadyflux::testing
