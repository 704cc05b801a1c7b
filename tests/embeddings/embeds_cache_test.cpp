// The cache on the disk: what it finds, what it gives up first, and that neither damage, nor other
// processes, nor a folder that cannot be written to are more than a miss.
#include "embeddings/embeds_cache.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <map>

#include "embeddings/embeds_for_tests.h"
#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLarge = std::int64_t{1} << 30;

EmbedsKey key_of(const StoredEmbeds& embeds) {
  return {embeds.prompt, embeds.encoder, embeds.max_sequence_length, embeds.dtype, "cpu"};
}

std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  return files;
}

// Runs `action` in a child; its exit status, or 128 + the signal that ended it.
int in_child(const std::function<int()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    int result = 99;
    try {
      result = action();
    } catch (...) {
    }
    ::_exit(result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

class EmbedsCacheTest : public testing::Test {
 protected:
  EmbedsCache open(std::int64_t limit = kLarge) const { return {folder_ / "cache", limit}; }

  void put(int seed, std::int64_t limit = kLarge) const {
    const auto embeds = make_embeds(std::to_string(seed), seed);
    open(limit).put(key_of(embeds), embeds);
  }
  bool has(int seed) const {
    const auto embeds = make_embeds(std::to_string(seed), seed);
    const auto found = open().find(key_of(embeds));
    return found && same_embeds(*found, embeds);
  }
  // The only entry that there is.
  fs::path entry() const { return files_below(folder_ / "cache").at(0); }
  // Every entry was last used so many hours before now.
  void set_age(int hours) const {
    for (const fs::path& file : files_below(folder_ / "cache")) {
      fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::hours(hours));
    }
  }

  TempFolder folder_;
};

TEST_F(EmbedsCacheTest, FindsWhatWasPutUnderItsKeyOnly) {
  const auto embeds = make_embeds("a red apple", 1);
  const EmbedsKey key = key_of(embeds);
  EXPECT_FALSE(open().find(key));
  EXPECT_FALSE(fs::exists(folder_ / "cache"));  // looking makes no folder
  EmbedsCache cache = open();
  cache.put(key, embeds);
  const auto found = open().find(key);
  ASSERT_TRUE(found);
  EXPECT_TRUE(same_embeds(*found, embeds));
  for (const auto& change : std::vector<std::function<void(EmbedsKey&)>>{
           [](EmbedsKey& k) { k.prompt = "a red apple "; },
           [](EmbedsKey& k) { k.encoder = "fedcba9876543210"; },
           [](EmbedsKey& k) { k.max_sequence_length = 5; }, [](EmbedsKey& k) { k.dtype = "fp16"; },
           [](EmbedsKey& k) { k.computed_by = "cuda"; },
           [](EmbedsKey& k) { k.prompt_2 = "a green pear"; },
           [](EmbedsKey& k) { std::swap(k.prompt, k.prompt_2); }}) {
    EmbedsKey other = key;
    change(other);
    EXPECT_FALSE(cache.find(other));
  }
  EXPECT_EQ(cache.take_warning(), "");
  EXPECT_EQ(fs::status(entry()).permissions(), fs::perms(0600));
  EXPECT_EQ(fs::status(folder_ / "cache").permissions(), fs::perms(0700));
}

TEST_F(EmbedsCacheTest, ATextOfItsOwnForT5IsPartOfTheKey) {
  auto embeds = make_embeds("a red apple", 1);
  auto key = key_of(embeds);
  EmbedsCache cache = open();
  cache.put(key, embeds);
  key.prompt_2 = embeds.prompt_2 = "a green pear";
  embeds.pooled[0] = std::byte{7};
  cache.put(key, embeds);
  auto found = cache.find(key);
  ASSERT_TRUE(found);
  EXPECT_TRUE(same_embeds(*found, embeds));
  key.prompt_2.clear();
  found = cache.find(key);
  ASSERT_TRUE(found);
  EXPECT_TRUE(same_embeds(*found, make_embeds("a red apple", 1)));
}

// Programs that know of no such texts made entries; they stay as good as they were.
TEST_F(EmbedsCacheTest, WithoutOneTheKeyIsWhatItWas) {
  const auto embeds = make_embeds("a red apple", 1);
  open().put(key_of(embeds), embeds);
  const PromptEmbedsFile file(entry());
  EXPECT_EQ(file.metadata().at("cache_key"),
            R"({"version":2,"encoder":"0123456789abcdef","max_sequence_length":4,"dtype":"bf16",)"
            R"("computed_by":"cpu","prompt":"a red apple"})");
  EXPECT_EQ(file.metadata().at("version"), "1");
}

TEST_F(EmbedsCacheTest, PromptsOfAllKindsHaveTheirOwnEntries) {
  EmbedsCache cache = open();
  const std::string prompts[] = {"",   " ",  "\n",       std::string(1, '\0'),
                                 "\"", "\\", "\xC3\xA9", std::string(100'000, 'x')};
  int seed = 0;
  for (const auto& prompt : prompts) {
    const auto embeds = make_embeds(prompt, ++seed);
    cache.put(key_of(embeds), embeds);
  }
  seed = 0;
  for (const auto& prompt : prompts) {
    const auto embeds = make_embeds(prompt, ++seed);
    const auto found = cache.find(key_of(embeds));
    EXPECT_TRUE(found && same_embeds(*found, embeds)) << seed;
  }
  EXPECT_EQ(cache.summary().entries, 8);
  const auto no_text = make_embeds("\xFF", 1);
  cache.put(key_of(no_text), no_text);
  EXPECT_FALSE(cache.find(key_of(no_text)));
  EXPECT_EQ(cache.summary().entries, 8);
  EXPECT_EQ(cache.take_warning(), "");
}

TEST_F(EmbedsCacheTest, AnEntryOfAnotherKeyUnderTheSameNameIsAMiss) {
  put(1);
  const fs::path name = entry();
  fs::rename(name, folder_ / "kept");
  put(2);
  const fs::path other = entry();
  fs::rename(folder_ / "kept", other);  // as if the two hashes were equal
  EXPECT_FALSE(open().find(key_of(make_embeds("2", 2))));
  EXPECT_FALSE(has(1));
  put(2);
  EXPECT_TRUE(has(2));
}

TEST_F(EmbedsCacheTest, ADamagedEntryIsAMissAndRemoved) {
  put(1);
  const fs::path path = entry();
  const std::string good = folder_.read(path);
  std::string changed_value = good;
  changed_value.back() ^= 1;
  for (const std::string& bytes :
       {std::string(), good.substr(0, 7), good.substr(0, good.size() - 1), changed_value,
        std::string(good.size(), '\0')}) {
    fs::remove(path);
    folder_.write(path, bytes);
    EmbedsCache cache = open();
    const EmbedsKey key = key_of(make_embeds("1", 1));
    EXPECT_FALSE(cache.find(key));
    EXPECT_FALSE(fs::exists(path));
    EXPECT_NE(cache.take_warning().find("it was removed"), std::string::npos);
    EXPECT_EQ(cache.take_warning(), "");
  }
  put(1);
  EXPECT_TRUE(has(1));
}

TEST_F(EmbedsCacheTest, GivesUpWhatWasNotUsedForLongest) {
  put(1);
  const auto size = static_cast<std::int64_t>(fs::file_size(entry()));
  set_age(40);
  for (int i = 2; i <= 4; ++i) {
    // Ages of what is there grow, so that each is older than those put after it.
    put(i);
    const auto age = fs::file_time_type::clock::now() - std::chrono::hours(40 - i);
    for (const fs::path& file : files_below(folder_ / "cache")) {
      if (fs::last_write_time(file) > age) fs::last_write_time(file, age);
    }
  }
  EXPECT_TRUE(has(1));          // the oldest becomes the newest
  put(5, 4 * size + size / 2);  // five do not fit: 2 goes
  EXPECT_EQ(open().summary().entries, 4);
  EXPECT_TRUE(has(1));
  EXPECT_FALSE(has(2));
  EXPECT_TRUE(has(5));
  put(6, 3 * size + size / 2);  // 3 and 4 go
  EXPECT_EQ(open().summary().entries, 3);
  EXPECT_FALSE(has(3));
  EXPECT_FALSE(has(4));
  EXPECT_TRUE(has(6));
}

TEST_F(EmbedsCacheTest, WhatIsLargerThanTheLimitIsNotKept) {
  put(1);
  put(2, 10);
  EXPECT_TRUE(has(1));
  EXPECT_FALSE(has(2));
  put(2, 0);
  EXPECT_FALSE(has(2));
}

TEST_F(EmbedsCacheTest, ManySmallEntriesKeepToTheLimitWithoutLookingEachTime) {
  put(0);
  const auto size = static_cast<std::int64_t>(fs::file_size(entry()));
  const std::int64_t limit = 300 * size;  // a 64th part of it: more than four entries
  EmbedsCache cache = open(limit);
  for (int i = 1; i < 700; ++i) {
    const auto embeds = make_embeds(std::to_string(i), i);
    cache.put(key_of(embeds), embeds);
  }
  // Between two looks a 64th part is allowed for, and passed by one entry at most.
  EXPECT_LE(cache.summary().bytes, limit + 2 * size);
  EXPECT_GT(cache.summary().entries, 200);
}

TEST_F(EmbedsCacheTest, SummaryAndClearSeeEntriesOnly) {
  put(1);
  set_age(10);
  put(2);
  folder_.write("cache/notes.txt", "mine");
  folder_.write("cache/embeds/ab/mine.safetensors", "mine");
  folder_.write("cache/embeds/zz/0123456789abcdef.safetensors", "mine");
  EmbedsCache cache = open();
  const auto summary = cache.summary();
  EXPECT_EQ(summary.entries, 2);
  EXPECT_GT(summary.bytes, 2 * (4 * 6 * 2 + 6));
  ASSERT_TRUE(summary.oldest && summary.newest);
  EXPECT_GT(*summary.newest - *summary.oldest, std::chrono::hours(9));
  EXPECT_EQ(cache.clear().entries, 2);
  EXPECT_EQ(cache.summary().entries, 0);
  EXPECT_FALSE(cache.summary().oldest);
  EXPECT_EQ(files_below(folder_ / "cache").size(), 3u);
  EXPECT_EQ(open().clear().entries, 0);
}

TEST_F(EmbedsCacheTest, TroubleIsToldOnceAndNoError) {
  const auto embeds = make_embeds("a", 1);
  const EmbedsKey key = key_of(embeds);
  folder_.write("file", "");
  for (const fs::path& folder :
       {fs::path(), folder_ / "file", folder_ / "file" / "cache", fs::path("/proc/steadyflux")}) {
    EmbedsCache cache(folder, kLarge);
    EXPECT_FALSE(cache.find(key));
    cache.put(key, embeds);
    EXPECT_FALSE(cache.find(key));
    const std::string warning = cache.take_warning();
    EXPECT_EQ(warning.rfind("the cache of prompt embeddings: ", 0), 0u) << warning;
    cache.put(key, embeds);
    EXPECT_EQ(cache.take_warning(), "");
    EXPECT_EQ(cache.summary().entries, 0);
    EXPECT_EQ(cache.clear().entries, 0);
  }
}

TEST_F(EmbedsCacheTest, AFolderWithoutWritePermissionIsReadAllTheSame) {
  put(1);
  fs::permissions(folder_.path(), fs::perms(0755));
  for (const auto& file : fs::recursive_directory_iterator(folder_.path())) {
    fs::permissions(file, file.is_directory() ? fs::perms(0555) : fs::perms(0444));
  }
  const int result = in_child([&] {
    if (::getuid() == 0 && ::setuid(65534) != 0) return 1;  // root may write everywhere
    EmbedsCache cache = open();
    const auto known = make_embeds("1", 1);
    if (!cache.find(key_of(known)) || !cache.take_warning().empty()) return 2;
    const auto unknown = make_embeds("2", 2);
    cache.put(key_of(unknown), unknown);
    return cache.take_warning().empty() ? 3 : 0;
  });
  EXPECT_EQ(result, 0);
  fs::permissions(folder_ / "cache", fs::perms(0755));
  for (const auto& file : fs::recursive_directory_iterator(folder_.path())) {
    if (file.is_directory()) fs::permissions(file, fs::perms(0755));
  }
}

TEST_F(EmbedsCacheTest, AWriteThatFailsLeavesNothing) {
  put(1);
  const int result = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};  // stops a writer in its midst, as a full disk does
    ::setrlimit(RLIMIT_FSIZE, &limit);
    EmbedsCache cache = open();
    const auto large = make_embeds("large", 2, 512, 64);
    cache.put(key_of(large), large);
    return cache.take_warning().empty() || cache.find(key_of(large)) ? 1 : 0;
  });
  EXPECT_EQ(result, 0);
  EXPECT_EQ(files_below(folder_ / "cache").size(), 1u);
}

TEST_F(EmbedsCacheTest, TheNextPutRemovesWhatAKilledOneLeft) {
  put(1);
  const int result = in_child([&] {
    // As put does, up to the moment before the end.
    PromptEmbedsWriter writer(folder_ / "cache/embeds/ab/abcdefabcdefabcd.safetensors",
                              {make_embeds("2", 2)},
                              {.temporary_folder = folder_ / "cache/embeds/tmp"});
    return ::kill(::getpid(), SIGKILL);
  });
  EXPECT_EQ(result, 128 + SIGKILL);
  EXPECT_EQ(files_below(folder_ / "cache").size(), 2u);
  put(3);
  EXPECT_EQ(files_below(folder_ / "cache").size(), 2u);
  EXPECT_TRUE(has(1));
  EXPECT_TRUE(has(3));
}

// Eight processes put, find and drop the same few entries, some are killed in between. Whatever is
// found is whole and right.
TEST_F(EmbedsCacheTest, ProcessesDoNotDisturbEachOther) {
  put(0);
  const auto size = static_cast<std::int64_t>(fs::file_size(entry()));
  std::map<pid_t, int> children;
  for (int process = 0; process < 8; ++process) {
    const pid_t child = ::fork();
    if (child == 0) {
      int hits = 0;
      EmbedsCache cache = open(12 * size);
      for (int i = 0; i < 300; ++i) {
        if (process >= 6 && i == 100 * (process - 5)) ::kill(::getpid(), SIGKILL);
        const int seed = (i * (process + 3)) % 20;
        const auto embeds = make_embeds(std::to_string(seed), seed);
        const auto found = cache.find(key_of(embeds));
        if (found && !same_embeds(*found, embeds)) ::_exit(1);
        if (!found) cache.put(key_of(embeds), embeds);
        hits += found ? 1 : 0;
      }
      if (!cache.take_warning().empty()) ::_exit(2);
      ::_exit(hits > 0 ? 0 : 3);
    }
    children[child] = process;
  }
  for (const auto& [child, process] : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (process < 6) {
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
  }
  put(0, 12 * size);
  EXPECT_LE(open().summary().bytes, 12 * size);
  EXPECT_GE(open().summary().entries, 3);
  EXPECT_EQ(files_below(folder_ / "cache").size(),
            static_cast<std::size_t>(open().summary().entries));  // nothing unfinished
}

TEST_F(EmbedsCacheTest, EvictionDoesNotDisturbWhoReads) {
  put(1);
  const auto expected = make_embeds("1", 1);
  const PromptEmbedsFile reader(entry());
  open().clear();
  EXPECT_TRUE(same_embeds(reader.load(0), expected));
}

// Sets a variable for one test.
class Variable {
 public:
  explicit Variable(const char* name) : name_(name) {
    if (const char* value = std::getenv(name)) before_ = value;
  }
  ~Variable() { set(before_ ? before_->c_str() : nullptr); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  void set(const char* value) {
    if (value == nullptr) {
      ::unsetenv(name_);
    } else {
      ::setenv(name_, value, 1);
    }
  }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

TEST(EmbedsCacheEnvironment, SaysWhereAndHowMuch) {
  Variable folder("STEADYFLUX_CACHE");
  Variable xdg("XDG_CACHE_HOME");
  Variable home("HOME");
  Variable size("STEADYFLUX_CACHE_SIZE");
  folder.set("here");
  xdg.set("/xdg");
  home.set("/home/me");
  EXPECT_EQ(cache_folder(), "here");
  folder.set("");
  EXPECT_EQ(cache_folder(), "/xdg/steadyflux");
  xdg.set("relative");
  EXPECT_EQ(cache_folder(), "/home/me/.cache/steadyflux");
  xdg.set(nullptr);
  home.set(nullptr);
  EXPECT_EQ(cache_folder(), "");
  size.set(nullptr);
  EXPECT_EQ(cache_size_limit(), std::int64_t{2} << 30);
  size.set("100MiB");
  EXPECT_EQ(cache_size_limit(), 100 << 20);
  size.set("much");
  expect_error(ErrorKind::kUsage, "STEADYFLUX_CACHE_SIZE: 'much'", [] { cache_size_limit(); });
}

}  // namespace
}  // namespace steadyflux
