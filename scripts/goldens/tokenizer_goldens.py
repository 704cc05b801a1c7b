"""Writes tests/tokenizer/goldens/: prompts, and the token ids transformers gives them.

    python scripts/goldens/tokenizer_goldens.py [--flux1 ../shared/flux1/schnell]

Needs transformers 5.23 and tokenizers. The prompts cover what has its own rule somewhere on the way:
scripts, emoji, combining marks, white space, control characters, special-token strings, long runs.
The bundled model's tokenizers are always written; those of FLUX.1 if its folder is given, and only
their ids, nothing of their files. Ids are stored before padding and truncation, and cut to a few
lengths for some prompts.
"""

import argparse
import json
import pathlib
import random
import tempfile

from transformers import CLIPTokenizer, T5TokenizerFast

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "tokenizer" / "goldens"
LENGTHS = {"clip": (2, 3, 16, 77), "t5": (1, 2, 64, 256)}

PLAIN = [
    "", " ", "   ", "\n", "a", "A", "a red apple", "A Red APPLE", " a red apple ", "a  red   apple",
    "a red apple.", "a red apple, a green pear; a blue plum!", "two cats and three dogs",
    "a photo of an astronaut riding a horse on mars", "it's the cat's pyjamas, they're we've I'm he'll I'd",
    "IT'S THE CAT'S PYJAMAS, THEY'RE WE'VE I'M HE'LL I'D", "'s 't 're 've 'm 'll 'd", "''s '''t 'sa 'Sa",
    "don’t “quote” ‘me’ «là» „so“", '"hello" she said', "`code` ~tilde~ ^caret^ |pipe| \\back\\slash/",
    "1234567890", "3.14159", "1,000,000", "2nd 3rd 21st", "12:30pm 24/7", "v1.2.3-rc4+build.5",
    "$5 €10 £20 ¥30 ₹40 ₿1 ¢ ₩", "100% #hashtag @user a&b a*b a+b a=b <b> {c} [d]",
    "e-mail: someone@example.com", "https://example.com/a/b?c=d&e=f#g", "snake_case camelCase PascalCase kebab-case",
    "...", "....", ".....", "!!!", "?!?!?!", "-----", "— – ― ‒ ‐", "… ‥ ․", "*" * 20, "_" * 33, "=" * 64,
    "supercalifragilisticexpialidocious", "pneumonoultramicroscopicsilicovolcanoconiosis",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
]
SCRIPTS = [
    "Ein Bär auf der Straße, groß und grün", "STRASSE ẞ ß SS", "İstanbul ı I i İİ", "ΟΔΥΣΣΕΥΣ Σ ς σ ΑΣ ΑΣ. ΑΣΑ",
    "Ελληνικά κείμενο με τόνους ΐ ΰ", "Русский текст: Ёлка и ёж", "Українська ґанок їжак", "Čeština ř ě š ů",
    "Tiếng Việt: một con mèo đỏ", "Türkçe ğüşöç", "Íslenska þ Þ ð Ð æ", "naïve café résumé", "cafe\u0301 re\u0301sume\u0301",
    "红苹果", "一只红色的猫坐在窗台上。", "漢字かな交じり文、テスト。", "カタカナ ｶﾀｶﾅ ﾊﾟﾋﾟ", "한국어 문장입니다", "한글 \u1112\u1161\u11ab", "각\u11a8",
    "تفاحة حمراء", "السَّلَامُ عَلَيْكُمْ", "ﷺ ﷲ ﻻ ﻼ", "؀ﬁ \u0600a \u06ddb", "עברית עִם נִקּוּד", "हिन्दी में एक लाल सेब", "क्षत्रिय ज्ञान श्री", "বাংলা ভাষা",
    "தமிழ் மொழி", "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "ไทยภาษา น้ำ กำลัง", "ລາວ", "မြန်မာ", "ខ្មែរ", "ქართული Ქართული ᲐᲑ", "Հայերեն և", "አማርኛ", "བོད་ཡིག",
    "ᏣᎳᎩ ꭰꭱ", "𐐀𐐁 𐐨", "𝐁𝐨𝐥𝐝 𝒮𝒸𝓇𝒾𝓅𝓉 𝔉𝔯𝔞𝔨 𝟘𝟙", "ⓐⓑ Ⓐ ① ⑳ ⅷ Ⅷ ½ ⅓ ²³ ₂", "ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ", "ﬁ\u0301x e\u0301ﬁ ﬂ\u0308\u0308", "ŉ ǰ ΐ ẖ",
    "Ｆｕｌｌｗｉｄｔｈ ＡＢＣ １２３ ！？", "㎏ ㎡ ㏒ ㍿ ㋿ ㊙", "™ ® © ℠ ℡ № ℀ Å Ω K", "ǅ ǈ ǋ ǲ DŽ", "ſ ẛ ẛ̣", "Ⱥ Ⱦ ȿ", "zͨa̷l̶g̸o̵ t̴e̷x̶t̸",
]
EMOJI = [
    "🍎", "🍎🍏🍐", "a 🍎 apple", "a🍎b", "👍🏽 👩🏾‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈 🏴‍☠️", "🇩🇪🇫🇷🇯🇵", "🇩🇪🇫", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣ #️⃣ *️⃣", "❤️ ❤ ❤︎", "☺️☹️",
    "😀😃😄😁😆😅🤣😂🙂🙃", "🤷‍♀️🤷‍♂️", "🫠🫡🫨", "♥ ♦ ♣ ♠ ♪ ♫", "→ ← ↑ ↓ ⇒ ∞ ≈ ≠ ≤ ∑ √ ∫", "☃\u0301 ☃\ufe0f", "🧑🏻‍❤️‍💋‍🧑🏿",
]
SPACES = ["\t", "\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0", "\xad", "\u034f", "\u061c",
    "\u115f", "\u1680", "\u17b4", "\u180e", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007",
    "\u2008", "\u2009", "\u200a", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202e",
    "\u202f", "\u205f", "\u2060", "\u2063", "\u2581", "\u3000", "\u3164", "\ufe0f", "\ufeff", "\ufff9", "\ufffd", "\uffa0",
    "\x00", "\x01", "\x07", "\x08", "\x1b", "\x7f", "\x80", "\x9f", "\ue000", "\U000e0001", "\U0010ffff", "\U000f0000"]
MARKS = ["\u0300", "\u0301", "\u0308", "\u0323", "\u0327", "\u0338", "\u0345", "\u0489", "\u05b4", "\u064b", "\u0651", "\u093c",
    "\u094d", "\u0e33", "\u0e49", "\u1ab0", "\u200d", "\u20dd", "\u20e3", "\u3099", "\u309a", "\ufe00", "\ufe20", "\U0001f3fb"]
SPECIAL = ["<|startoftext|>", "<|endoftext|>", "<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>", "<extra_id_10>", "<extra_id_99>"]
FRAMES = ["{}", "a {} b", "a{}b", " {} ", "{}b", "a{}", "{}{}", "a {}", "{} b", "a  {}  b", "a\n{}\nb", "ab{} 1{}2", "▁{}▁", "é{}é"]


def make_prompts():
    prompts = PLAIN + SCRIPTS + EMOJI
    for c in SPACES:
        prompts += [f"a{c}b", f"{c}red {c}{c} apple{c}"]
    for c in MARKS:
        prompts += [f"a{c} {c}b e{c}{c} ﬁ{c}x Ａ{c} が{c}"]
    for token in SPECIAL:
        prompts += [frame.replace("{}", token) for frame in FRAMES]
        prompts += [token.upper(), token[:-1], token[1:], token.replace("<", "＜").replace(">", "＞"),
                    token.replace("_", " "), f"<{token}>", token.title()]
    prompts += ["<extra_id_100>", "<extra_id_00>", "<extra_id_-1>", "<extra_id_1", "<<<</s>>>>", "<|startoftext|><|endoftext|>",
                "<|StartOfText|>x", "x<|ENDOFTEXT|>y", "<|ſtartoftext|>", "＜|startoftext|＞", "!!<|ENDOFTEXT|>", "▁", "▁▁", "a▁b", "▁a ▁▁b▁"]
    rng = random.Random(20)
    words = "a an the red green cat dog castle over mountain, photograph; of! in? watercolor painting's 4k hdr".split()
    for n in (20, 60, 75, 76, 77, 78, 80, 120, 254, 256, 300):
        prompts.append(" ".join(rng.choice(words) for _ in range(n)))
    # Long runs: many cuts have equal scores, and the order of summing decides.
    for _ in range(40):
        c = rng.choice("aeimnos!.-_=xhw01")
        run = "".join(rng.choice([c, c, c, rng.choice("ahzxo!.?")]) for _ in range(rng.randint(20, 160)))
        prompts.append(run)
    alphabet = "".join(PLAIN[6:20] + SCRIPTS + EMOJI) + "".join(SPACES) + "".join(MARKS) * 2 + " " * 40
    for _ in range(120):
        prompts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 40))))
    # Rules that a grapheme of a base letter and marks could meet.
    for _ in range(60):
        prompts.append("".join(rng.choice("aéﬁÅ①ªµǆ؀½ſA゙か") + rng.choice(MARKS) * rng.randint(0, 2) for _ in range(8)))
    return list(dict.fromkeys(prompts))


def encode(tokenizer, prompt, **options):
    return tokenizer(prompt, **options).input_ids


def goldens(kind, tokenizer, prompts):
    cut = [p for p in prompts if len(encode(tokenizer, p)) > 20][::9] + ["", "a red apple"]
    long = max(prompts, key=lambda p: len(encode(tokenizer, p)))
    cases = [
        {"prompt": prompts.index(p), "length": n,
         "ids": encode(tokenizer, p, truncation=True, max_length=n, padding="max_length")}
        for p in dict.fromkeys(cut[:6] + cut[-2:] + [long]) for n in LENGTHS[kind]
    ]
    return {"ids": [encode(tokenizer, p) for p in prompts], "cut": cases}


def write(name, data):
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), indent=None)
    (OUT / name).write_text(text.replace("],[", "],\n[") + "\n")
    print(f"{OUT / name}: {len(text)} bytes")


def check_tokenizer_json(cls, tokenizer, prompts):
    """Saved as tokenizer.json alone, the tokenizer must still say the same."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.backend_tokenizer.save(f"{folder}/tokenizer.json")
        again = cls.from_pretrained(folder)
        assert all(encode(again, p) == encode(tokenizer, p) for p in prompts), cls


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flux1", type=pathlib.Path, help="a FLUX.1 folder with tokenizer/ and tokenizer_2/")
    args = parser.parse_args()
    prompts = make_prompts()
    assert len(prompts) >= 500
    print(len(prompts), "prompts")
    write("prompts.json", prompts)
    models = {"emoji": ROOT / "models" / "emoji"} | ({"flux1": args.flux1} if args.flux1 else {})
    for model, folder in models.items():
        for kind, cls, part in (("clip", CLIPTokenizer, "tokenizer"), ("t5", T5TokenizerFast, "tokenizer_2")):
            tokenizer = cls.from_pretrained(folder / part)
            check_tokenizer_json(cls, tokenizer, prompts)
            write(f"{model}_{kind}.json", goldens(kind, tokenizer, prompts))


if __name__ == "__main__":
    main()
