// The events of a run, by the documented schema, with made-up memory and a clock set by hand.
#include "cli/event_observer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cli/event_log.h"
#include "cli/read_events.h"
#include "memory/plan.h"
#include "temp_folder.h"

namespace steadyflux::cli {
namespace {

// Writes down what it is told.
class Recorder : public Observer {
 public:
  void planned(const Plan&) override { calls.emplace_back("planned"); }
  void memory_seen(const MemoryTimeline&) override { calls.emplace_back("memory_seen"); }
  void phase_started(const std::string& name, std::int64_t total) override {
    calls.push_back("started " + name + " " + std::to_string(total));
  }
  void phase_progress(std::int64_t steps) override {
    calls.push_back("step " + std::to_string(steps));
  }
  void phase_finished(const PhaseStats& stats) override { calls.push_back("end " + stats.name); }
  void warning(const std::string& message) override { calls.push_back(message); }
  int interrupt_signal() override { return 15; }
  std::vector<std::string> calls;
};

Plan some_plan(bool has_device) {
  Plan plan;
  plan.budget.has_device = has_device;
  plan.fits = true;
  plan.phases = {{.name = "encode", .device_peak_bytes = 5, .ram_peak_bytes = 7}};
  return plan;
}

// An EventObserver on a file, with made-up memory and a clock that is set by hand.
class EventObserverTest : public testing::Test {
 protected:
  EventSources sources(bool has_device) {
    EventSources from;
    from.process = [this] {
      MemorySample sample;
      sample.rss = 1000;
      sample.disk_read = disk_read_;
      sample.major_faults = 10 + disk_read_ / 100;
      return sample;
    };
    from.available = [] { return std::int64_t{5000}; };
    if (has_device) {
      from.device = [] {
        DeviceSample sample;
        sample.allocated = 77;
        return sample;
      };
    }
    from.now = [this] { return now_; };
    return from;
  }

  std::vector<Json> events(const std::string& name) const {
    std::vector<Json> found;
    for (const Json& event : read_events(folder_ / "e.jsonl")) {
      if (event["event"] == name) found.push_back(event);
    }
    return found;
  }

  TempFolder folder_;
  std::unique_ptr<EventLog> log_ = EventLog::open((folder_ / "e.jsonl").string());
  Recorder next_;
  double now_ = 100;
  std::int64_t disk_read_ = 500;
};

TEST_F(EventObserverTest, PassesEverythingOn) {
  EventObserver observer(*log_, next_, sources(false));
  observer.planned(some_plan(false));
  observer.phase_started("denoise", 8);
  observer.phase_progress(1);
  observer.phase_progress(2);  // no event, but a call
  observer.warning("careful");
  observer.phase_finished({.name = "denoise"});
  observer.memory_seen({});
  EXPECT_EQ(next_.calls,
            (std::vector<std::string>{"planned", "started denoise 8", "step 1", "step 2", "careful",
                                      "end denoise", "memory_seen"}));
  EXPECT_EQ(observer.interrupt_signal(), 15);
}

TEST_F(EventObserverTest, APlanAmidAPhaseIsAChange) {
  EventObserver observer(*log_, next_, sources(false));
  observer.planned(some_plan(false));
  observer.phase_started("encode", 2);
  observer.planned(some_plan(false));
  observer.phase_finished({.name = "encode"});
  observer.phase_started("denoise", 2);
  observer.memory_seen({});  // the phase ended by an exception
  observer.planned(some_plan(false));
  EXPECT_EQ(events("plan").size(), 2U);
  EXPECT_EQ(events("plan_changed").size(), 1U);
}

TEST_F(EventObserverTest, StepsSayWhatMemoryIsLike) {
  EventObserver observer(*log_, next_, sources(true));
  observer.phase_started("denoise", 10);
  for (int step = 1; step <= 3; ++step) {
    now_ += 2;
    disk_read_ += 300;
    observer.phase_progress(step);
  }
  const auto steps = events("step");
  ASSERT_EQ(steps.size(), 3U);
  EXPECT_TRUE(steps[0]["eta_seconds"].is_null());
  EXPECT_EQ(steps[1]["eta_seconds"], 16);
  EXPECT_EQ(steps[2]["eta_seconds"], 14);
  EXPECT_EQ(steps[2]["rss"], 1000);
  EXPECT_EQ(steps[2]["mem_available"], 5000);
  EXPECT_EQ(steps[2]["vram_allocated"], 77);
  EXPECT_EQ(steps[2]["disk_read"], 900);  // since the phase began
  EXPECT_EQ(steps[2]["major_faults"], 9);
}

TEST_F(EventObserverTest, FastStepsAreThinnedOut) {
  EventObserver observer(*log_, next_, sources(false));
  for (const char* phase : {"encode", "denoise"}) {
    observer.phase_started(phase, 1003);
    for (int step = 1; step <= 1003; ++step) {
      now_ += 1.0 / 1024;  // exact in binary
      observer.phase_progress(step);
    }
  }
  for (const char* phase : {"encode", "denoise"}) {
    std::vector<int> steps;
    for (const Json& event : events("step")) {
      if (event["phase"] == phase) steps.push_back(event["step"].get<int>());
    }
    // 20 a second, and the last one.
    EXPECT_LE(steps.size(), 21U);
    EXPECT_GE(steps.size(), 19U);
    EXPECT_EQ(steps.front(), 1);
    EXPECT_EQ(steps.back(), 1003);
  }
  EXPECT_EQ(next_.calls.size(), 2U * 1004U);
}

TEST_F(EventObserverTest, SizesOnTheDeviceAreNullWithoutOne) {
  for (const bool has_device : {false, true}) {
    EventObserver observer(*log_, next_, sources(has_device));
    observer.planned(some_plan(has_device));
    observer.memory_released({}, {});
  }
  EXPECT_TRUE(events("plan")[0]["device_peak_bytes"].is_null());
  EXPECT_TRUE(events("plan")[0]["phases"][0]["device_peak_bytes"].is_null());
  EXPECT_EQ(events("plan")[1]["phases"][0]["device_peak_bytes"], 5);
  EXPECT_EQ(events("plan")[1]["phases"][0]["ram_peak_bytes"], 7);
  EXPECT_TRUE(events("memory_released")[0]["vram_reserved_before"].is_null());
  EXPECT_EQ(events("memory_released")[1]["vram_reserved_before"], 0);
}

TEST_F(EventObserverTest, RealSourcesHaveNumbers) {
  EventObserver observer(*log_, next_);
  observer.phase_started("denoise", 1);
  observer.phase_progress(1);
  const Json step = events("step").at(0);
  EXPECT_GT(step["rss"], 1 << 20);
  EXPECT_GT(step["mem_available"], 1 << 20);
}

// "key: type" of every value, lists by their first element. Null stands for any type.
void describe(const Json& value, const std::string& path, std::map<std::string, std::string>& out) {
  if (value.is_object()) {
    for (const auto& [key, member] : value.items()) describe(member, path + "." + key, out);
  } else if (value.is_array() && !value.empty()) {
    describe(value[0], path + "[]", out);
  } else {
    out[path] = value.is_number() ? "number" : value.type_name();
  }
}

// Every event is written with the keys, in the order and of the types, that docs/events.md shows;
// and every event that it shows is written.
TEST_F(EventObserverTest, TheSchemaIsAsDocumented) {
  EventObserver observer(*log_, next_, sources(false));
  observer.started(10, 2);
  observer.chunk_started(0, 8);
  observer.stage_started({.number = 2, .count = 3, .width = 64, .height = 64, .steps = 1});
  observer.planned(some_plan(false));
  observer.phase_started("encode", 2);
  observer.phase_progress(1);
  observer.planned(some_plan(false));
  now_ += 1;
  observer.phase_progress(2);
  observer.phase_finished({.name = "encode"});
  observer.memory_released({}, {});
  observer.picture({.output = "a.png"});
  observer.warning("w");
  observer.error(Error(ErrorKind::kIo, "full"), 3);
  observer.finished({.exit_code = 6});

  std::map<std::string, Json> written;
  for (const Json& event : read_events(folder_ / "e.jsonl")) {
    written[event["event"].get<std::string>()] = event;
  }
  std::set<std::string> documented;
  std::ifstream page(STEADYFLUX_SOURCE_DIR "/docs/events.md");
  ASSERT_TRUE(page.is_open());
  for (std::string line; std::getline(page, line);) {
    if (line.rfind("{\"event\"", 0) != 0) continue;
    const Json example = Json::parse(line);
    const auto name = example["event"].get<std::string>();
    documented.insert(name);
    ASSERT_EQ(written.count(name), 1U) << name << " is documented, but not written";
    EXPECT_EQ(keys_of(written[name]), keys_of(example)) << name;
    std::map<std::string, std::string> types;
    std::map<std::string, std::string> expected;
    describe(written[name], name, types);
    describe(example, name, expected);
    for (const auto& [path, type] : expected) {
      ASSERT_EQ(types.count(path), 1U) << path;
      if (type == "null" || types[path] == "null") continue;
      EXPECT_EQ(types[path], type) << path;
    }
    EXPECT_EQ(types.size(), expected.size()) << name;
  }
  for (const auto& [name, event] : written) {
    EXPECT_EQ(documented.count(name), 1U) << name << " is written, but not documented";
  }
}

}  // namespace
}  // namespace steadyflux::cli
