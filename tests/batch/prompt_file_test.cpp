#include "batch/prompt_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

using namespace std::string_view_literals;
using Entries = std::vector<PromptEntry>;
using Options = std::map<std::string, std::string>;

constexpr auto kText = PromptFormat::kText;
constexpr auto kJsonLines = PromptFormat::kJsonLines;
constexpr auto kCsv = PromptFormat::kCsv;
constexpr auto kTabs = PromptFormat::kTabs;

Entries parse(std::string_view text, PromptFormat format) {
  return parse_prompts(text, format, "dir/file");
}

// The options of one object, of which `members` are all but the prompt.
Options options_of(const std::string& members) {
  const Entries entries = parse("{\"prompt\": \"p\", " + members + "}", kJsonLines);
  return entries.at(0).options;
}

TEST(PromptFormats, AreThoseOfTheExtensions) {
  for (const char* name : {"a.jsonl", "a.ndjson", "b/a.json", "A.JSONL"}) {
    EXPECT_EQ(prompt_format_of(name), kJsonLines) << name;
  }
  EXPECT_EQ(prompt_format_of("a.csv"), kCsv);
  EXPECT_EQ(prompt_format_of("a.tsv"), kTabs);
  for (const char* name : {"a.txt", "a", "-", ".csv", "a.csv.txt", "/dev/fd/63"}) {
    EXPECT_EQ(prompt_format_of(name), kText) << name;
  }
}

TEST(PromptText, IsOnePromptALine) {
  const Entries expected = {
      {2, "a red apple", {}}, {4, "gr\xc3\xbcn #2", {}}, {6, "{ is a brace", {{"seed", "7"}}}};
  const std::string text =
      "# comment\na red apple\n\n  gr\xc3\xbcn #2\t\n \t# another\n"
      " {\"prompt\": \"{ is a brace\", \"seed\": 7}";
  EXPECT_EQ(parse(text, kText), expected);
  EXPECT_EQ(parse(text + "\n", kText), expected);
  EXPECT_EQ(parse("\xef\xbb\xbf" + text, kText), expected);
  std::string crlf;
  for (const char c : text) crlf += c == '\n' ? "\r\n" : std::string(1, c);
  EXPECT_EQ(parse(crlf, kText), expected);
  EXPECT_EQ(parse(crlf + "\r\n", kText), expected);
}

TEST(PromptText, FilesThatWereJoinedHaveMarksInside) {
  EXPECT_EQ(parse("a\n\xef\xbb\xbf# c\n\xef\xbb\xbf{\"prompt\": \"b\"}\n", kText),
            (Entries{{1, "a", {}}, {3, "b", {}}}));
}

TEST(PromptText, MayHoldNothing) {
  for (const char* text : {"", "\n", " \r\n\t", "\xef\xbb\xbf"}) {
    EXPECT_EQ(parse(text, kText), Entries{}) << text;
    EXPECT_EQ(parse(text, kJsonLines), Entries{}) << text;
  }
  EXPECT_EQ(parse("# only", kText), Entries{});
}

TEST(PromptJsonLines, TakeEveryKeyAndItsOtherSpellings) {
  const Options all = {{"seed", "1"},       {"width", "64"},      {"height", "48"},
                       {"steps", "4"},      {"guidance", "3.5"},  {"max-sequence-length", "256"},
                       {"num-images", "2"}, {"output", "a/b.png"}};
  EXPECT_EQ(options_of(R"("seed": 1, "width": 64, "height": 48, "steps": 4, "guidance": 3.5,)"
                       R"("max-sequence-length": 256, "num-images": 2, "output": "a/b.png")"),
            all);
  EXPECT_EQ(options_of(R"("seed": "1", "width": "64", "height": "48", "num_inference_steps": "4",)"
                       R"("guidance_scale": "3.5", "max_sequence_length": "256",)"
                       R"("num_images": "2", "output": "a/b.png")"),
            all);
  EXPECT_EQ(options_of(R"("n": 3, "num-inference-steps": 8, "guidance-scale": 0)"),
            (Options{{"num-images", "3"}, {"steps", "8"}, {"guidance", "0"}}));
}

TEST(PromptJsonLines, LorasAreOneOrAList) {
  EXPECT_EQ(options_of(R"("lora": "a.safetensors:0.5")"), (Options{{"lora", "a.safetensors:0.5"}}));
  EXPECT_EQ(options_of(R"("lora": ["a", "b:2"], "seed": 1)"),
            (Options{{"lora", "a\nb:2"}, {"seed", "1"}}));
  for (const char* none : {R"("lora": "")", R"("lora": [])"}) {
    EXPECT_EQ(options_of(none), (Options{{"lora", ""}}));
  }
}

TEST(PromptJsonLines, ReduxImagesAreOneOrAList) {
  EXPECT_EQ(options_of(R"("redux-image": "a.png:0.5")"), (Options{{"redux-image", "a.png:0.5"}}));
  EXPECT_EQ(options_of(R"("redux_image": ["a", "b:2"])"), (Options{{"redux-image", "a\nb:2"}}));
  EXPECT_EQ(options_of(R"("redux-image": "")"), (Options{{"redux-image", ""}}));
}

TEST(PromptJsonLines, TakePicturesToBeginFrom) {
  const Options all = {{"image", "a b.png"}, {"mask", "m/1.png"}, {"strength", "0.50"}};
  EXPECT_EQ(options_of(R"("image": "a b.png", "mask": "m/1.png", "strength": 0.50)"), all);
  EXPECT_EQ(options_of(R"("strength": "0.50", "mask": "m/1.png", "image": "a b.png")"), all);
  const Options condition = {
      {"reference", "1.png"}, {"reference-size", "own"}, {"control-image", "2"}};
  EXPECT_EQ(options_of(R"("reference": "1.png", "reference_size": "own", "control-image": "2")"),
            condition);
  EXPECT_EQ(options_of(R"("image": "1.0", "strength": 1.0)"),  // no whole numbers
            (Options{{"image", "1.0"}, {"strength", "1.0"}}));
  EXPECT_EQ(parse("prompt,image,mask,strength\np,a b.png,m/1.png,0.50\nq,,,\n", kCsv),
            (Entries{{2, "p", all}, {3, "q", {}}}));
}

TEST(PromptJsonLines, TakeASizeToBeginWith) {
  EXPECT_EQ(options_of(R"("base_size": 64, "strength": 0.5)"),
            (Options{{"base-size", "64"}, {"strength", "0.5"}}));
}

TEST(PromptJsonLines, TakeOtherTextsAndWhatGoesWithThem) {
  const Options all = {{"prompt-2", " b "},
                       {"negative-prompt", "c, d"},
                       {"negative-prompt-2", "1.0"},
                       {"true-cfg-scale", "4.0"}};
  EXPECT_EQ(options_of(R"("prompt_2": " b ", "negative_prompt": "c, d",)"
                       R"("negative_prompt_2": "1.0", "true_cfg_scale": 4.0)"),
            all);
  EXPECT_EQ(options_of(R"("negative-prompt": "")"), (Options{{"negative-prompt", ""}}));
  // Blanks around texts are kept, and blank cells are none.
  EXPECT_EQ(parse("prompt,prompt-2,negative-prompt,negative-prompt-2,true-cfg-scale\n"
                  "p, b ,\"c, d\",1.0, 4.0 \nq,, ,,\n",
                  kCsv),
            (Entries{{2, "p", all}, {3, "q", {}}}));
}

TEST(PromptJsonLines, SaySchedulersAndSigmas) {
  EXPECT_EQ(options_of(R"("scheduler": "heun", "shift": 1.50, "compat": "bfl")"),
            (Options{{"compat", "bfl"}, {"scheduler", "heun"}, {"shift", "1.50"}}));
  EXPECT_EQ(options_of(R"("cache_threshold": 0.10)"), (Options{{"cache-threshold", "0.10"}}));
  EXPECT_EQ(options_of(R"("sigmas": [1, 0.50, "0.1"], "shift": "auto")"),
            (Options{{"shift", "auto"}, {"sigmas", "1\n0.50\n0.1"}}));
  EXPECT_EQ(options_of(R"("sigmas": "1, 0.5")"), (Options{{"sigmas", "1, 0.5"}}));
  EXPECT_EQ(parse("prompt,sigmas\np,\"1,0.5\"\nq,1 0.5\n", kCsv),
            (Entries{{2, "p", {{"sigmas", "1,0.5"}}}, {3, "q", {{"sigmas", "1 0.5"}}}}));
}

TEST(PromptJsonLines, KeepEveryDigitOfANumber) {
  for (const std::string number :
       {"0", "-1", "18446744073709551615", "9223372036854775808", "-9223372036854775808",
        "18446744073709551616", "123456789012345678901234567890", "3.14159265358979323846", "1e3",
        "4.5", "0.10"}) {
    EXPECT_EQ(options_of("\"seed\": " + number), (Options{{"seed", number}}));
    EXPECT_EQ(options_of("\"guidance\": " + number), (Options{{"guidance", number}}));
  }
}

TEST(PromptJsonLines, AWholeNumberMayHaveAFractionOfZeros) {
  EXPECT_EQ(options_of(R"("steps": 4.0, "seed": -1.00, "width": "64.0")"),
            (Options{{"steps", "4"}, {"seed", "-1"}, {"width", "64"}}));
  EXPECT_EQ(
      options_of(R"("guidance": 4.0, "steps": "4.", "seed": ".0", "n": "4.0e1")"),
      (Options{{"guidance", "4.0"}, {"steps", "4."}, {"seed", ".0"}, {"num-images", "4.0e1"}}));
  EXPECT_EQ(options_of(R"("output": "1.0")"), (Options{{"output", "1.0"}}));
}

TEST(PromptJsonLines, PromptsAreWhatTheStringSays) {
  EXPECT_EQ(parse(R"({"prompt": " \"a\"\n\u00fc\ud83d\ude00\\ "})", kJsonLines),
            (Entries{{1, " \"a\"\n\xc3\xbc\xf0\x9f\x98\x80\\ ", {}}}));
  EXPECT_EQ(parse(R"({"prompt": ""})", kJsonLines), (Entries{{1, "", {}}}));
}

TEST(PromptJsonLines, SkipBlankLines) {
  EXPECT_EQ(parse("\xef\xbb\xbf\r\n {\"prompt\": \"a\"} \r\n\n\t{\"prompt\": \"b\"}", kJsonLines),
            (Entries{{2, "a", {}}, {4, "b", {}}}));
}

TEST(PromptCsv, ReadsQuotesLineEndsAndBlanks) {
  const std::string text =
      "seed, prompt ,\"n\",output\n"
      "1,a red apple,,\n"
      "\n"
      "2,\"one, \"\"two\"\",\r\nthree\",4.0, a b.png \n"
      ",,,\n"
      "\"\",# a,,\"c,d.png\"";
  const Entries expected = {
      {2, "a red apple", {{"seed", "1"}}},
      {4, "one, \"two\",\r\nthree", {{"seed", "2"}, {"num-images", "4"}, {"output", "a b.png"}}},
      {7, "# a", {{"output", "c,d.png"}}}};
  EXPECT_EQ(parse(text, kCsv), expected);
  EXPECT_EQ(parse("\xef\xbb\xbf" + text + "\n", kCsv), expected);
  EXPECT_EQ(parse("prompt,width\r\na,64\r\n\r\nb,\r\n", kCsv),
            (Entries{{2, "a", {{"width", "64"}}}, {4, "b", {}}}));
}

TEST(PromptCsv, PromptsKeepTheirSpacesAndAreNoJson) {
  EXPECT_EQ(parse("prompt\n a \n\"{\"\"prompt\"\": 1}\"\n", kCsv),
            (Entries{{2, " a ", {}}, {3, "{\"prompt\": 1}", {}}}));
}

TEST(PromptCsv, MayHoldNothingButTheHeader) { EXPECT_EQ(parse("prompt,seed\n", kCsv), Entries{}); }

TEST(PromptCsv, TabsSeparateInTsv) {
  EXPECT_EQ(parse("prompt\tseed\na, b\t18446744073709551615\n\"c\td\"\t\n", kTabs),
            (Entries{{2, "a, b", {{"seed", "18446744073709551615"}}}, {3, "c\td", {}}}));
}

struct BadInput {
  PromptFormat format;
  std::string_view text;
  std::string message;  // begins behind "dir/file:"
};

// The whole message, because it is all a user sees.
TEST(BadPrompts, AreReportedWithLineReasonAndRemedy) {
  const std::string known =
      "; known are prompt, prompt-2, negative-prompt, negative-prompt-2, true-cfg-scale, seed, "
      "width, height, steps, guidance, max-sequence-length, num-images (or n), lora, image, mask, "
      "strength, reference, reference-size, control-image, redux-image, base-size, scheduler, "
      "sigmas, shift, compat, cache-threshold and output";
  const std::string brace = "; a prompt that begins with a brace is written {\"prompt\": \"{...\"}";
  const std::string utf16 = "this is UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)";
  const std::string not_closed =
      "the JSON object is not closed; put all of it on one line (jq -c . does that)";
  const std::string names = "the first line must name the columns, such as prompt,seed";
  const std::string doubled = "; a quote inside a cell is written \"\"";
  const std::string nul = " is NUL; remove it, or convert the text to UTF-8 if it is UTF-16";
  const std::vector<BadInput> cases = {
      // Characters.
      {kText, "a\nb\xff\n"sv, "2: byte 2 is not UTF-8; convert the text to UTF-8"},
      {kText, "a\n# \xe2\x82"sv, "2: byte 3 is not UTF-8; convert the text to UTF-8"},
      {kText, "\xc3\nb"sv, "1: byte 1 is not UTF-8; convert the text to UTF-8"},
      {kText, "a\n\nab\0c\n"sv, "3: byte 3" + nul},
      {kText, "a\0b\xff\n"sv, "1: byte 2" + nul},
      {kText,
       "\xff\xfe"
       "a\0\n\0"sv,
       "1: " + utf16},
      {kText, "\xfe\xff\0a"sv, "1: " + utf16},
      {kText, "one\rtwo\r", "1: a carriage return inside the line; end lines with LF or CRLF"},
      {kJsonLines, "{\"prompt\": \"\xc0\x80\"}",
       "1: byte 13 is not UTF-8; convert the text to UTF-8"},
      {kJsonLines, "\xff\xfe{\0"sv, "1: " + utf16},
      {kCsv, "prompt\n\"a\nb\n\xffz\"\n", "4: byte 1 is not UTF-8; convert the text to UTF-8"},
      {kCsv, "prompt\na\0\n"sv, "2: byte 2" + nul},
      {kCsv, "\xfe\xff\0p"sv, "1: " + utf16},
      // What JSON is.
      {kText, "{a|b} cat", "1: not valid JSON at byte 2" + brace},
      {kText, "x\n\xef\xbb\xbf {a", "2: not valid JSON at byte 6" + brace},
      {kText, "{\"prompt\": 'a'}", "1: not valid JSON at byte 12" + brace},
      {kText, "{\"prompt\": \"a\",}", "1: not valid JSON at byte 16" + brace},
      {kText, "{\"prompt\": \"\\ud800\"}", "1: not valid JSON at byte 19" + brace},
      {kText, "{\"prompt\": \"a\tb\"}", "1: not valid JSON at byte 14" + brace},
      {kText, "{\"steps\": 04}", "1: not valid JSON at byte 12" + brace},
      {kText, "{\"guidance\": NaN}", "1: not valid JSON at byte 14" + brace},
      {kText, "{", "1: " + not_closed},
      {kText, "{\"prompt\": \"a", "1: " + not_closed},
      {kText, "{\"prompt\": \"a\"", "1: " + not_closed},
      {kText, "{\"seed\": 1", "1: " + not_closed},
      {kText, "{\"prompt\": \"a\", \"seed\": tr", "1: " + not_closed},
      {kJsonLines, "{\n  \"prompt\": \"a\"\n}\n", "1: " + not_closed},
      {kText, "{\"prompt\": \"a\"} b",
       "1: something follows the JSON object; put every object on a line of its own"},
      {kJsonLines, "\n{\"prompt\": \"a\"}{\"prompt\": \"b\"}\n",
       "2: something follows the JSON object; put every object on a line of its own"},
      {kJsonLines, "{\"prompt\": \"a\", \"guidance\": 1e999}",
       "1: 'guidance': the number is out of range"},
      {kJsonLines, "[{\"prompt\": \"a\"}]",
       "1: a JSON array, expected an object on every line (jq -c '.[]' makes them)"},
      {kJsonLines, "{\"prompt\": \"a\"}\n# b",
       "2: expected a JSON object, such as {\"prompt\": \"a red apple\"}"},
      {kJsonLines, "\"a\"", "1: expected a JSON object, such as {\"prompt\": \"a red apple\"}"},
      // Keys.
      {kText, "a\n{}", "2: the JSON object has no \"prompt\"; add one"},
      {kText, "{\"seed\": 1}", "1: the JSON object has no \"prompt\"; add one"},
      {kText, "{\"prompt\": \"a\", \"Seed\": 1}", "1: unknown key 'Seed'" + known},
      {kText, "{\"prompt\": \"a\", \"\": 1}", "1: unknown key ''" + known},
      {kText, "{\"prompt\": \"a\", \"loras\": \"x\"}", "1: unknown key 'loras'" + known},
      {kText, "{\"prompt\": \"a\", \"image\": 1}", "1: 'image' is a number, expected a string"},
      {kText, "{\"prompt\": \"a\", \"mask\": [\"x\"]}", "1: 'mask' is an array, expected a string"},
      {kText, "{\"prompt\": \"a\", \"image\": \"\"}",
       "1: 'image' is empty; give it a value or leave it out"},
      {kJsonLines, "{\"prompt\": \"a\", \"lora\": [\"x\", 1]}",
       "1: 'lora' is a number, expected a string or a list of strings"},
      {kJsonLines, "{\"prompt\": \"a\", \"lora\": [[\"x\"]]}",
       "1: 'lora' is an array, expected a string or a list of strings"},
      {kJsonLines, "{\"prompt\": \"a\", \"seed\": [1]}",
       "1: 'seed' is an array, expected a number"},
      {kText, "{\"\\u001b[2J\\u0000\": 1}", "1: unknown key '\\x1B[2J\\x00'" + known},
      {kText, "{\"prompt\": \"a\", \"negative_prompt\": 1}",
       "1: 'negative_prompt' is a number, expected a string"},
      {kText, "{\"prompt\": \"a\", \"negative_prompt\": null}",
       "1: 'negative_prompt' is null, expected a string"},
      {kText, "{\"prompt\": \"a\", \"prompt_2\": \"\"}",
       "1: 'prompt_2' is empty; give it a value or leave it out"},
      {kText, "{\"prompt\": \"a\", \"true_cfg_scale\": [2]}",
       "1: 'true_cfg_scale' is an array, expected a number"},
      {kText, "{\"max_ram\": \"1GiB\"}",
       "1: 'max_ram' is the same for all prompts: give it as --max-ram on the command line"},
      {kText, "{\"prompt\": \"a\", \"width\": 16, \"width\": 32}",
       "1: 'width' is given twice; keep one"},
      {kText, "{\"prompt\": \"a\", \"\\u0070rompt\": \"a\"}",
       "1: 'prompt' is given twice; keep one"},
      {kText, "{\"n\": 1, \"prompt\": \"a\", \"num_images\": 1}",
       "1: 'n' and 'num_images' mean the same; keep one"},
      {kText, "{\"num-images\": 1, \"num_images\": 1}",
       "1: 'num-images' and 'num_images' mean the same; keep one"},
      {kText, "{\"steps\": 1, \"num_inference_steps\": 2}",
       "1: 'steps' and 'num_inference_steps' mean the same; keep one"},
      // Values.
      {kText, "{\"prompt\": 5}", "1: 'prompt' is a number, expected a string"},
      {kText, "{\"prompt\": null}", "1: 'prompt' is null, expected a string"},
      {kText, "{\"prompt\": [\"a\"]}", "1: 'prompt' is an array, expected a string"},
      {kText, "{\"prompt\": \"a\", \"output\": 1.5}", "1: 'output' is a number, expected a string"},
      {kText, "{\"prompt\": \"a\", \"num_images\": true}",
       "1: 'num_images' is true, expected a number"},
      {kText, "{\"prompt\": \"a\", \"seed\": false}", "1: 'seed' is false, expected a number"},
      {kText, "{\"prompt\": \"a\", \"seed\": {\"a\": 1}}",
       "1: 'seed' is an object, expected a number"},
      {kText, "{\"prompt\": \"a\", \"seed\": \"\"}",
       "1: 'seed' is empty; give it a value or leave it out"},
      {kText, "{\"prompt\": \"a\\u0000b\"}", "1: 'prompt' contains a NUL character; remove it"},
      {kText, "{\"prompt\": \"a\", \"output\": \"\\u0000\"}",
       "1: 'output' contains a NUL character; remove it"},
      // CSV.
      {kCsv, "", "1: the file is empty; " + names},
      {kCsv, "\n,\n", "1: the file is empty; " + names},
      {kCsv, "a red apple\na pear\n", "1: unknown key 'a red apple'" + known},
      {kCsv, "seed,width\n1,64\n", "1: no column is named prompt; " + names},
      {kCsv, "prompt;seed\na;1\n",
       "1: the columns are separated by semicolons; separate them by commas"},
      {kCsv, "\nprompt,seed,\n", "2: column 3 has no name"},
      {kCsv, "prompt,n,num_images\n", "1: 'n' and 'num_images' mean the same; keep one"},
      {kCsv, "prompt,seed,seed\n", "1: 'seed' is given twice; keep one"},
      {kCsv, "prompt,seed\na,1\nb,2,3\n",
       "3: the row has 3 cells, the header 2; a prompt with a separator in it must stand in "
       "quotes"},
      {kCsv, "prompt,seed\n\"a\nb\"\n",
       "2: the row has 1 cells, the header 2; a prompt with a separator in it must stand in "
       "quotes"},
      {kCsv, "prompt,seed\n ,1\n", "2: the prompt is blank; write one, or delete the row"},
      {kCsv, "prompt\n\"a\nb\n", "2: a quote is opened here and never closed" + doubled},
      {kCsv, "prompt\n\"a\n\"\"b\n", "2: a quote is opened here and never closed" + doubled},
      {kCsv, "prompt,n\n\"a\n\"\"b\",\"\n1\n",
       "3: a quote is opened here and never closed" + doubled},
      {kCsv, "prompt\n\"a\n\"b\n", "3: something follows a closing quote" + doubled},
      {kCsv, "prompt\n\"a\" \n", "2: something follows a closing quote" + doubled},
      {kCsv, "prompt\na \"b\" c\n",
       "2: a quote in the middle of a cell; put quotes around the cell, and write those inside as "
       "\"\""},
      {kCsv, "prompt\ra\r",
       "1: a carriage return without a line feed; save the file with LF or CRLF line ends"},
      {kTabs, "prompt,seed\na,1\n", "1: unknown key 'prompt,seed'" + known},
  };
  for (const BadInput& bad : cases) {
    try {
      parse(bad.text, bad.format);
      ADD_FAILURE() << "no error; expected " << bad.message;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << error.what();
      EXPECT_EQ(error.what(), "dir/file:" + bad.message);
    }
  }
}

TEST(PromptLine, IsAPromptOrAnObjectOrNothing) {
  EXPECT_EQ(parse_prompt_line(" a cat\r", 7), (PromptEntry{7, "a cat", {}}));
  EXPECT_EQ(parse_prompt_line("{\"prompt\": \"a\", \"n\": 2}\r", 8),
            (PromptEntry{8, "a", {{"num-images", "2"}}}));
  EXPECT_EQ(parse_prompt_line("\xef\xbb\xbf"
                              "a",
                              1),
            (PromptEntry{1, "a", {}}));
  for (const char* line : {"", "\r", " \t", "#", " # {", "\xef\xbb\xbf#"}) {
    EXPECT_FALSE(parse_prompt_line(line, 1)) << line;
  }
}

TEST(PromptLine, ErrorsNameNoFile) {
  for (const auto& [line, message] : std::vector<std::pair<std::string_view, std::string>>{
           {"a\xff"sv, "byte 2 is not UTF-8; convert the text to UTF-8"},
           {"{\"prompt\": \"a\", \"seed\": null}"sv, "'seed' is null, expected a number"}}) {
    try {
      parse_prompt_line(line, 3);
      ADD_FAILURE() << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      EXPECT_EQ(error.what(), message);
    }
  }
}

TEST(PromptLine, HasALimit) {
  const std::string longest(kLongestPromptLine, 'a');
  EXPECT_EQ(parse_prompt_line(longest, 1)->prompt.size(), kLongestPromptLine);
  const std::string message = "the line has 4194305 bytes, 4194304 at most are taken";
  expect_error(ErrorKind::kBadInput, message, [&] { parse_prompt_line(longest + "b", 1); });
  expect_error(ErrorKind::kBadInput, "dir/file:2: " + message,
               [&] { parse("a\n" + longest + "b\nc\n", kText); });
}

TEST(PromptLine, DeepNestingIsRefusedAtItsFirstLevel) {
  const std::string deep(1'000'000, '[');
  expect_error(ErrorKind::kBadInput, "'seed' is an array, expected a number",
               [&] { parse_prompt_line("{\"seed\": " + deep, 1); });
}

TEST(PromptFile, IsReadInTheFormatOfItsName) {
  const TempFolder folder;
  folder.write("a.txt", "prompt\n{\"prompt\": \"b\"}\n");
  folder.write("a.jsonl", "{\"prompt\": \"b\"}\n");
  folder.write("a.csv", "prompt\n{}\n");
  EXPECT_EQ(read_prompt_file(folder / "a.txt"), (Entries{{1, "prompt", {}}, {2, "b", {}}}));
  EXPECT_EQ(read_prompt_file(folder / "a.jsonl"), (Entries{{1, "b", {}}}));
  EXPECT_EQ(read_prompt_file(folder / "a.csv"), (Entries{{2, "{}", {}}}));
}

TEST(PromptFile, ErrorsNameItsPath) {
  const TempFolder folder;
  folder.write("a.csv", "prompt\na,b\n");
  expect_error(ErrorKind::kBadInput, (folder / "a.csv").string() + ":2: the row has 2 cells",
               [&] { read_prompt_file(folder / "a.csv"); });
  expect_error(ErrorKind::kBadInput, (folder / "none.txt").string() + ": file not found",
               [&] { read_prompt_file(folder / "none.txt"); });
  expect_error(ErrorKind::kBadInput, folder.path().string() + ": is a folder",
               [&] { read_prompt_file(folder.path()); });
  ASSERT_EQ(symlink("loop", (folder / "loop").c_str()), 0);
  expect_error(ErrorKind::kIo, "loop: cannot open: Too many levels of symbolic links",
               [&] { read_prompt_file(folder / "loop"); });
}

TEST(PromptFile, HasALimit) {
  const TempFolder folder;
  folder.write("a.txt", "a");
  std::filesystem::resize_file(folder / "a.txt", kLargestPromptFile + 1);  // a hole
  expect_error(ErrorKind::kBadInput, "a.txt: larger than 64 MiB; split it, or send its lines to",
               [&] { read_prompt_file(folder / "a.txt"); });
  std::filesystem::resize_file(folder / "a.txt", kLargestPromptFile);
  expect_error(ErrorKind::kBadInput, "a.txt:1: the line has 67108864 bytes",
               [&] { read_prompt_file(folder / "a.txt"); });
}

// What docs/prompt-files.md shows as a file of that format.
std::string documented(const std::string& format) {
  std::ifstream in(std::string(STEADYFLUX_SOURCE_DIR) + "/docs/prompt-files.md");
  const std::string page{std::istreambuf_iterator<char>(in), {}};
  const std::string fence = "```";
  const std::string opening = "\n" + fence + format + "\n";
  const std::size_t begin = page.find(opening);
  if (begin == std::string::npos) return "nothing of that format";
  const std::size_t content = begin + opening.size();
  return page.substr(content, page.find(fence, content) - content);
}

TEST(PromptFile, TheExamplesOfTheDocumentationAreRead) {
  EXPECT_EQ(parse(documented("text"), kText),
            (Entries{{2, "a red apple on a wooden table", {}},
                     {3, "a lighthouse in a storm, oil painting", {}},
                     {5, "# is a hash, { is a brace", {{"seed", "7"}, {"width", "64"}}}}));
  EXPECT_EQ(parse(documented("jsonl"), kJsonLines),
            (Entries{{1, "a red apple", {{"seed", "18446744073709551615"}}},
                     {2,
                      "a castle\non a hill",
                      {{"width", "128"}, {"height", "64"}, {"steps", "4"}, {"num-images", "2"}}},
                     {3, "a cat", {{"guidance", "3.5"}, {"output", "pets/cat.png"}}},
                     {4, "a cat in oil", {{"image", "cat.jpg"}, {"strength", "0.7"}}},
                     {5, "a street", {{"negative-prompt", "rain"}, {"true-cfg-scale", "3.5"}}}}));
  EXPECT_EQ(parse(documented("csv"), kCsv),
            (Entries{{2, "a red apple", {{"seed", "1"}, {"width", "64"}}},
                     {3, "a fox, sitting", {{"seed", "2"}, {"output", "fox.png"}}},
                     {4, "a sign that says \"hello\"\nin two lines", {}}}));
}

TEST(PromptFile, MayBeAPipe) {
  const TempFolder folder;
  const std::string path = folder / "pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  std::thread writer([&] { std::ofstream(path) << "a\nb"; });
  const Entries entries = read_prompt_file(path);
  writer.join();
  EXPECT_EQ(entries, (Entries{{1, "a", {}}, {2, "b", {}}}));
}

}  // namespace
}  // namespace steadyflux
