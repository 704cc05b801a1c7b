#include "base/json.h"

#include <gtest/gtest.h>

#include <string>

#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

nlohmann::json parse(const std::string& text) { return parse_json(text, "some/file.json"); }

void expect_refused(const std::string& text, const std::string& part) {
  expect_error(ErrorKind::kBadInput, part, [&] { parse(text); });
  expect_error(ErrorKind::kBadInput, "some/file.json", [&] { parse(text); });
}

std::string nested(int depth) {
  const auto n = static_cast<std::size_t>(depth);
  return std::string(n, '[') + std::string(n, ']');
}

TEST(ParseJson, ReadsWhatIsValid) {
  EXPECT_EQ(parse("3"), 3);
  EXPECT_EQ(parse(" {\"a\": [1, 2.5, \"\\u00fc\", null, true]} "),
            nlohmann::json({{"a", {1, 2.5, "\xc3\xbc", nullptr, true}}}));
}

TEST(ParseJson, RefusesWhatIsCutOrHasMoreBehindIt) {
  const std::string whole = R"({"a": [1, {"b": "c"}], "d": 2.5})";
  for (std::size_t length = 0; length < whole.size(); ++length) {
    expect_refused(whole.substr(0, length), "syntax error at byte");
  }
  expect_refused(whole + "x", "syntax error");
  expect_refused(whole + whole, "syntax error");
}

TEST(ParseJson, RefusesWhatOtherParsersAddToTheFormat) {
  for (const char* text : {"{'a': 1}", "{\"a\": 1,}", "[1, 2,]", "// x\n1", "NaN", "Infinity", "01",
                           "+1", "\"\t\"", "\"\\x41\""}) {
    expect_refused(text, "syntax error");
  }
}

TEST(ParseJson, RefusesBytesThatAreNotUtf8) {
  expect_refused("\"abc\xff\"", "invalid UTF-8 at byte 4");
  expect_refused("\"\\ud800\"", "syntax error");  // half of a surrogate pair
}

TEST(ParseJson, RefusesAKeyGivenTwiceInOneObject) {
  expect_refused(R"({"shape": [1], "x": {}, "shape": [2]})", "the key 'shape' is given twice");
  expect_refused(R"({"o": {"a": {"k": 1, "k": 1}}})", "the key 'k' is given twice");
  expect_refused(R"({"k": 1, "\u006b": 2})", "the key 'k' is given twice");  // spelled otherwise
  EXPECT_NO_THROW(parse(R"({"a": {"k": 1}, "b": {"k": 2}, "k": [{"k": 3}, {"k": 4}]})"));
}

TEST(ParseJson, RefusesDeepNesting) {
  EXPECT_NO_THROW(parse(nested(64)));
  expect_refused(nested(65), "nested deeper than 64 levels");
  expect_refused(std::string(1'000'000, '['), "nested deeper than 64 levels");
}

TEST(ParseJson, RefusesNumbersBeyondDouble) {
  expect_refused("[1e999]", "a number is out of range");
  EXPECT_EQ(parse("18446744073709551615"), UINT64_MAX);
}

TEST(ParseJson, ControlCharactersDoNotReachTheTerminal) {
  expect_refused(R"({"\u001b[2J": 1, "\u001b[2J": 2})", "the key '\\x1B[2J' is given twice");
}

TEST(ReadJsonObject, WantsAnObject) {
  const TempFolder folder;
  folder.write("good.json", R"({"a": 1})");
  folder.write("list.json", "[1]");
  EXPECT_EQ(read_json_object(folder / "good.json").at("a"), 1);
  expect_error(ErrorKind::kBadInput, "list.json: the top level is array, expected an object",
               [&] { read_json_object(folder / "list.json"); });
  expect_error(ErrorKind::kBadInput, "none.json: file not found",
               [&] { read_json_object(folder / "none.json"); });
}

}  // namespace
}  // namespace steadyflux
