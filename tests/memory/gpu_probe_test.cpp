// A made-up NVML: as a table of functions, and as a library that is really opened.
#include "memory/gpu_probe.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "temp_folder.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

struct FakeCard {
  std::string name;
  std::int64_t free;
  std::int64_t total;
  int error = 0;
};

struct FakeDriver {
  std::vector<FakeCard> cards;
  int init_error = 0;
  int open = 0;  // init less shutdown

  Nvml nvml() {
    Nvml table;
    table.init = [this] {
      if (init_error == 0) ++open;
      return init_error;
    };
    table.shutdown = [this] { return --open, 0; };
    table.count = [this](unsigned* count) {
      *count = static_cast<unsigned>(cards.size());
      return 0;
    };
    table.handle = [this](unsigned index, Nvml::Device* device) {
      *device = &cards.at(index);
      return 0;
    };
    table.name = [](Nvml::Device device, char* name, unsigned length) {
      std::snprintf(name, length, "%s", static_cast<FakeCard*>(device)->name.c_str());
      return 0;
    };
    table.memory = [](Nvml::Device device, Nvml::MemoryInfo* memory) {
      const auto* card = static_cast<FakeCard*>(device);
      memory->total = static_cast<unsigned long long>(card->total);
      memory->free = static_cast<unsigned long long>(card->free);
      memory->used = memory->total - memory->free;
      return card->error;
    };
    table.error_text = [](int) { return "Driver Not Loaded"; };
    return table;
  }
};

FakeDriver three_cards() {
  return {.cards = {{"RTX 3060", 11 * kGiB, 12 * kGiB},
                    {"RTX 3060", 10 * kGiB, 12 * kGiB},
                    {"RTX 3060", 9 * kGiB, 12 * kGiB}}};
}

// The free memory of the cards seen, in GiB.
std::vector<std::int64_t> seen(FakeDriver& driver, std::optional<std::string> visible) {
  const GpuProbe probe = probe_gpus(driver.nvml(), {std::move(visible), std::nullopt});
  std::vector<std::int64_t> free;
  for (const GpuMemory& gpu : probe.gpus) free.push_back(gpu.free / kGiB);
  EXPECT_EQ(free.empty(), !probe.problem.empty()) << probe.problem;
  EXPECT_EQ(driver.open, 0);
  return free;
}

using Free = std::vector<std::int64_t>;

TEST(GpuProbe, TellsNameAndMemory) {
  FakeDriver driver{.cards = {{"RTX 3060", 11 * kGiB, 12 * kGiB}}};
  const GpuProbe probe = probe_gpus(driver.nvml(), {});
  ASSERT_EQ(probe.gpus.size(), 1u);
  EXPECT_EQ(probe.gpus[0].name, "RTX 3060");
  EXPECT_EQ(probe.gpus[0].free, 11 * kGiB);
  EXPECT_EQ(probe.gpus[0].total, 12 * kGiB);
  EXPECT_TRUE(probe.problem.empty());
  EXPECT_TRUE(probe.order_is_certain);
}

TEST(GpuProbe, VisibleDevices) {
  FakeDriver driver = three_cards();
  EXPECT_EQ(seen(driver, std::nullopt), (Free{11, 10, 9}));
  EXPECT_EQ(seen(driver, "2,0"), (Free{9, 11}));
  EXPECT_EQ(seen(driver, " 1 , 2 "), (Free{10, 9}));
  EXPECT_EQ(seen(driver, "1,"), (Free{10}));
  EXPECT_EQ(seen(driver, "0,7,1"), (Free{11}));  // as in CUDA, 7 ends the list
  EXPECT_EQ(seen(driver, "0,-1,1"), (Free{11}));
  EXPECT_EQ(seen(driver, "1x,0"), Free{});
  EXPECT_EQ(seen(driver, ""), Free{});
  EXPECT_EQ(seen(driver, "-1"), Free{});
  EXPECT_EQ(seen(driver, "99999999999999999999"), Free{});
}

TEST(GpuProbe, CardsNamedByTheirIdsAreNotGuessed) {
  FakeDriver driver = three_cards();
  const GpuProbe probe = probe_gpus(driver.nvml(), {"GPU-8932f937", std::nullopt});
  EXPECT_TRUE(probe.gpus.empty());
  EXPECT_NE(probe.problem.find("CUDA_VISIBLE_DEVICES"), std::string::npos) << probe.problem;
}

TEST(GpuProbe, OrderOfDifferentCards) {
  FakeDriver driver{.cards = {{"T400", 1 * kGiB, 2 * kGiB}, {"RTX 4090", 23 * kGiB, 24 * kGiB}}};
  EXPECT_FALSE(probe_gpus(driver.nvml(), {}).order_is_certain);
  EXPECT_FALSE(probe_gpus(driver.nvml(), {"0", "FASTEST_FIRST"}).order_is_certain);
  EXPECT_TRUE(probe_gpus(driver.nvml(), {std::nullopt, "PCI_BUS_ID"}).order_is_certain);
  EXPECT_EQ(driver.open, 0);
}

TEST(GpuProbe, NoCard) {
  FakeDriver driver;
  EXPECT_EQ(seen(driver, std::nullopt), Free{});
}

TEST(GpuProbe, ADriverThatDoesNotAnswer) {
  FakeDriver driver = three_cards();
  driver.init_error = 9;
  const GpuProbe probe = probe_gpus(driver.nvml(), {});
  EXPECT_TRUE(probe.gpus.empty());
  EXPECT_NE(probe.problem.find("Driver Not Loaded"), std::string::npos) << probe.problem;
  EXPECT_EQ(driver.open, 0);
}

TEST(GpuProbe, ACardThatDoesNotAnswerEndsTheList) {
  FakeDriver driver = three_cards();
  driver.cards[1].error = 15;
  Nvml nvml = driver.nvml();
  nvml.error_text = nullptr;
  const GpuProbe probe = probe_gpus(nvml, {});
  ASSERT_EQ(probe.gpus.size(), 1u);  // cuda:2 must not be taken for cuda:1
  EXPECT_NE(probe.problem.find("card 1"), std::string::npos) << probe.problem;
  EXPECT_NE(probe.problem.find("error 15"), std::string::npos) << probe.problem;
}

TEST(GpuProbe, NoLibraryAndTheWrongOne) {
  const GpuProbe none = probe_gpus({}, "libsteadyflux-there-is-none.so.1");
  EXPECT_TRUE(none.gpus.empty());
  EXPECT_NE(none.problem.find("libsteadyflux-there-is-none"), std::string::npos) << none.problem;
  const GpuProbe wrong = probe_gpus({}, "libm.so.6");
  EXPECT_TRUE(wrong.gpus.empty());
  EXPECT_NE(wrong.problem.find("libm.so.6"), std::string::npos) << wrong.problem;
}

TEST(GpuProbe, ALibraryThatIsOpened) {
  TempFolder folder;
  folder.write(
      "nvml.c",
      "#include <string.h>\n"
      "struct memory { unsigned long long total, free, used; };\n"
      "static int card;\n"
      "int nvmlInit_v2(void) { return 0; }\n"
      "int nvmlShutdown(void) { return 0; }\n"
      "int nvmlDeviceGetCount_v2(unsigned* n) { *n = 1; return 0; }\n"
      "int nvmlDeviceGetHandleByIndex_v2(unsigned i, void** d) { *d = &card + i; return 0; }\n"
      "int nvmlDeviceGetName(void* d, char* s, unsigned n) {\n"
      "  strncpy(s, d == &card ? \"Made-up card\" : \"?\", n); return 0; }\n"
      "int nvmlDeviceGetMemoryInfo(void* d, struct memory* m) {\n"
      "  m->total = 8ull << 30; m->free = 7ull << 30; m->used = 1ull << 30;\n"
      "  return d == &card ? 0 : 1; }\n");
  const std::string library = (folder / "libmade-up-nvml.so").string();
  const std::string command =
      "cc -shared -fPIC -o " + library + " " + (folder / "nvml.c").string() + " 2>/dev/null";
  if (std::system(command.c_str()) != 0) GTEST_SKIP() << "no C compiler to make a library with";
  const GpuProbe probe = probe_gpus({}, library);
  ASSERT_EQ(probe.gpus.size(), 1u) << probe.problem;
  EXPECT_EQ(probe.gpus[0].name, "Made-up card");
  EXPECT_EQ(probe.gpus[0].free, 7 * kGiB);
  EXPECT_EQ(probe.gpus[0].total, 8 * kGiB);
}

}  // namespace
}  // namespace steadyflux
