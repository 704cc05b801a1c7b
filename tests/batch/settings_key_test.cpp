// Keys must be the same for ever: a folder made by one version is gone on with by the next.
#include "batch/settings_key.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "expect_error.h"

namespace steadyflux {
namespace {

using nlohmann::json;

TEST(SettingsKey, TheOrderOfKeysDoesNotCount) {
  const json one = json::parse(R"({"prompt": "a cat", "seed": 1, "size": {"h": 2, "w": 3}})");
  const json two = json::parse(R"({"size":{"w":3,"h":2},"seed":1,"prompt":"a cat"})");
  EXPECT_EQ(settings_key(one), settings_key(two));
}

TEST(SettingsKey, EverythingElseCounts) {
  const std::vector<const char*> texts = {R"({})",
                                          R"([])",
                                          R"(null)",
                                          R"({"seed":1})",
                                          R"({"seed":"1"})",
                                          R"({"seed":1.0})",
                                          R"({"seed":2})",
                                          R"({"Seed":1})",
                                          R"({"seed":[1]})",
                                          R"({"a":"b","c":"d"})",
                                          R"({"a":"d","c":"b"})",
                                          R"({"seed":18446744073709551615})",
                                          R"({"seed":-1})"};
  std::set<std::string> keys;
  for (const char* text : texts) keys.insert(settings_key(json::parse(text)));
  EXPECT_EQ(keys.size(), texts.size());
}

// What xxHash's own program prints: `xxhsum -H128` of {"prompt":"a red apple","seed":0}, and
// `xxhsum -H3 /dev/null`.
TEST(SettingsKey, IsXxh128OfTheText) {
  EXPECT_EQ(settings_key(json{{"seed", 0}, {"prompt", "a red apple"}}),
            "c3da2534ddaa4e4bd5b84f5f8481a8a2");
  EXPECT_EQ(text_hash(""), 0x2d06800538d394c2u);
}

TEST(SettingsKey, RefusesWhatIsNoText) {
  expect_error(ErrorKind::kBadInput, "UTF-8", [] { settings_key(json{{"prompt", "\xff"}}); });
}

}  // namespace
}  // namespace steadyflux
