"""Writes strings.json: the texts that tokenizers are tried on.

An entry is {"text": ...} or {"base64": ...} (bytes that are not UTF-8), with "repeat": n where the text is that many
copies, and "special": true where control tokens in it are to be recognized.

usage: python make_strings.py > strings.json
"""
import base64
import json
import random
import unicodedata

PLAIN = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " \n", "\n ", " \n \n  \n", "\t\n", "\r\n\r\n a",
    "a", " a", "  a", "   a", "a ", "a  ", "a   b", "a\tb", "a\t\tb", "a \t b", "a\nb", "a\n\nb", "a \n b", "a\r\nb", "a\r\n\r\nb",
    "\u00a0", "a\u00a0b", "\u00a0\u00a0a", "\u3000a", "a\u3000\u3000b", "\u2003\u2009a", "\u200ba\u200b", "\ufeffa", "\u180ea\u180eb",
    "a\u2028b\u2029c", "\x0b\x0ca", "a\x85b", "\x85 \x85", "a\u202fb", "\u1680x", "a\u205fb", " \u00a0 x", "x \u00a0\n y",
    "Hello", "Hello world", " Hello world", "Hello  world", "Hello, world!", " Hello,   world !  ", "hello.world", "HELLO WORLD", "HelloWorld",
    "The capital of France is", "The quick brown fox jumps over the lazy dog.", "What is the capital of France?\n",
    "I'm you're he'll we've they'd it's don't", "I'M YOU'RE HE'LL WE'VE THEY'D IT'S DON'T", "I'm'll've'd't're's", "'s 't 'S 'LL '\u017f 'x", "a'\u017fb x'\u212a",
    "o'clock rock'n'roll '90s ''quoted'' 'a'", "l\u2019\u00e9t\u00e9 don\u2019t \u2018a\u2019",
    "0", "1", "12", "123", "1234", "12345", "123456", "1234567", "12345678", "123456789", "1234567890", " 1", " 12", " 123", " 1234", "3.14159", "1,000,000", "-1e-10", "0x1F600",
    "a1b22c333d4444", "2024-01-31T12:59:59Z", "v1.2.3-rc4", "1st 2nd 3rd", "\u00bd\u00bc\u00be \u00b2\u00b3\u00b9", "\u2160\u2161\u2162 \u2170", "\u2460\u2461", "\u0661\u0662\u0663\u0664", "\u0967\u0968\u0969\u096a", "\u0e51\u0e52\u0e53", "\u09e7\u09e8\u09e9", "\uff11\uff12\uff13", "\u4e00\u4e8c\u4e09", "\U0001d7ce\U0001d7cf", "10\u00b3 x\u00b2+y\u00b2",
    "!", "!!", "!!!", "...", "\u2026", "?!?!", "---", "\u2014", "a-b_c", "__init__", "#include <stdio.h>", "a+b=c", "$100", "\u20ac5 \u00a35 \u00a55", "100%", "@user #tag", "a/b\\c", "(a) [b] {c} <d>", "\"quoted\"", "`code`", "~^|", "<=>", "$+<=>^~|`", "\u00abguillemets\u00bb", "\u3001\u3002\uff0c\uff01",
    "http://example.com/path?x=1&y=2#frag", "user@example.com", "C:\\Users\\me", "/usr/local/bin", "a\\nb",
    "def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "if x:\n        y()\n    else:\n            z()\n", "SELECT * FROM t WHERE a='b';", "{\"a\": [1, 2, {\"b\": null}]}", "<div class=\"x\">text</div>", "</s>", "<s>", "<b>bold</b><br/>", "\\frac{a}{b} \\alpha_1^2", "| a | b |\n|---|---|\n| 1 | 2 |",
    "camelCaseString", "snake_case_string", "XMLHttpRequest", "iPhone", "McDonald's", "ABCdef", "aBcDeF", "\u00c9cole \u00e9COLE", "\u01c5 \u01c6 \u01c4", "\u00df \u1e9e STRASSE stra\u00dfe", "\u0130stanbul \u0131",
    "\u00e9\u00e8\u00ea\u00eb\u00e0\u00fc\u00f6\u00e4\u00f1\u00e7", "na\u00efve caf\u00e9", "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144", "P\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148", "\u00c6ther \u00d8re \u00c5ngstr\u00f6m", "Ti\u1ebfng Vi\u1ec7t r\u1ea5t hay", "C\u1eeda Vi\u1ec7t",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041a\u0430\u043a \u0434\u0435\u043b\u0430?", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5", "\u0427\u0438 \u043d\u0435 \u0457\u0441\u0442\u0438 \u0449\u0435\u043f\u0430\u043d\u043a\u0443?", "\u0532\u0561\u0580\u0587 \u0561\u0577\u056d\u0561\u0580\u0570", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u10db\u10e1\u10dd\u10e4\u10da\u10d8\u10dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u0627\u064e\u0644\u0652\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u064e\u0651\u0629\u064f", "\u0633\u0644\u0627\u0645\u060c \u062f\u0646\u06cc\u0627! \u06f1\u06f2\u06f3", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u05d1\u05b0\u05bc\u05e8\u05b5\u05d0\u05e9\u05b4\u05c1\u05d9\u05ea",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0995\u09c7\u09ae\u09a8 \u0986\u099b\u09c7\u09a8?", "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd \u0b89\u0bb2\u0b95\u0bae\u0bcd", "\u0c28\u0c2e\u0c38\u0c4d\u0c15\u0c3e\u0c30\u0c02", "\u0dc4\u0dd9\u0dbd\u0ddd",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u0e01\u0e33\u0e25\u0e31\u0e07 \u0e17\u0e33\u0e44\u0e14\u0e49", "\u0eaa\u0eb0\u0e9a\u0eb2\u0e8d\u0e94\u0eb5", "\u1019\u1004\u103a\u1039\u1002\u101c\u102c\u1015\u102b", "\u179f\u17bd\u179f\u17d2\u178f\u17b8", "\u0f56\u0f7c\u0f51\u0f0b\u0f66\u0f90\u0f51\u0f0b",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002 \u6211\u4eec\u53bb\u516c\u56ed\u5427", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c", "\u30ab\u30bf\u30ab\u30ca\u3068\u6f22\u5b57\u3068\u3072\u3089\u304c\u306a", "\uff76\uff80\uff76\uff85 \uff71", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4.", "\U00020000\U0002a6d6\u9f98", "\u3042\u3099 \u304c", "\u4f60\u597dHello\u4e16\u754c123\u3002",
    "e\u0301", "re\u0301sume\u0301", "a\u0300\u0301\u0302b", "A\u030angstro\u0308m", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u212b \u2126 \u212a", "q\u0307\u0323 q\u0323\u0307", "\u0344\u0958\u2adc", "\ufb01 \ufb03 \u01c9", "\u0315\u0300\u05ae\u0062", "\u0301 leading mark", "\u0928\u093c \u0929",
    "\U0001f600", "\U0001f600\U0001f601\U0001f602", "I \u2764\ufe0f you \U0001f60d!", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd", "\U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea", "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", "\U0001f9d1\U0001f3ff\u200d\U0001f4bb code", "1\ufe0f\u20e3#\ufe0f\u20e3", "\U0001fae8\U0001fac3", "\U0001f926\u200d\u2642\ufe0f",
    "\u2200x\u2208\u211d: \u2308x\u2309 = \u2212\u230a\u2212x\u230b", "\u222b\u2080\u221e e\u207b\u02e3dx", "\u2500\u2502\u250c\u2510 \u2588\u2591", "\u2190\u2191\u2192\u2193", "\u266a\u266b \u265a\u2654", "\U0001d4d7\U0001d4ee\U0001d4f5\U0001d4f5\U0001d4f8", "\u028c\u0259\u02c8\u0283", "\u02bc \u02b0 \u1d43", "\ua9c0\U00011080",
    "\x00", "a\x00b", "\x01\x02\x03\x04\x05\x06\x07\x08", "\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f", "\x7f", "th\x04e", "\x1b[31mred\x1b[0m", "\ufffd", "\ufffe\uffff", "\U0010ffff", "\ue000\uf8ff", "\u202eright\u202c", "soft\u00adhyphen", "zero\u200cwidth\u200djoin\u2060er",
    "\u0378\u0e3f\u2fe0", "\u2581", "\u2581\u2581a", "a\u2581b \u2581 c", "\u0120hello", "\u010a", "\u00c4\u00a0", "<0x41>", "<0xFF><0x0A>", "[PAD]", "\u00f5\u00f7", "[multimodal]", "<table><tr><td>", "<start_of_image>",
    " " * 4 + "x", " " * 7 + "x", " " * 8 + "x", " " * 15 + "x", " " * 16 + "x", " " * 17 + "x", " " * 30 + "x", " " * 31 + "x", " " * 32 + "x", " " * 33 + "x", " " * 63, " " * 64 + "y", " " * 100, "\n" * 30 + "x", "\n" * 31 + "x", "\n" * 32, "\n" * 33, "\t" * 31 + "x", "\t" * 40, "\n \n  \n   \n", " \t \t x", "a" + " " * 5 + "\n" + " " * 5 + "b",
    "a" * 50, "ab" * 50, "A" * 50, "=" * 80, "-" * 79, "." * 33, "*" * 17, "/" * 9, "\u4f60" * 40, "\U0001f600" * 20, "7" * 50, "w\u0304" * 20, "hahahahaha" * 5, "nananana" * 4,
]

LOOK_ALIKES = [
    "<|im_start|>", "<|im_end|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", "<|im_start|", "|im_start|>", "<<|im_start|>>", "<|im_start|><|im_start|>", "< |im_start|>", "<|IM_START|>",
    "<|endoftext|>", "x <|endoftext|> y", "<|endoftext|>\n<|endoftext|>", "<bos>", "<eos>", "<bos>a<eos>", "<start_of_turn>user\nHi<end_of_turn>\n", "<unused0><unused99>", "<unk>", "<pad>", "<mask>",
    "<s>a</s>", "[INST] a [/INST]", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<|eot_id|>", "<file_sep>", "<repo_name>", "<filename>x.py", "<fim_prefix>a<fim_suffix>b<fim_middle>",
    "<BOS_TOKEN><|START_OF_TURN_TOKEN|>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>a", ">>TITLE<<", "<|padding|>", "<|user|>\nHi<|end|>\n", "  <|im_start|>  a", "\u00e9<|im_end|>\u00e9",
]

INVALID = [
    b"\xff", b"\xfe\xff", b"a\xffb", b"\x80", b"\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x82a", b"\xe2\x28\xa1", b"\xf0\x9f\x98", b"\xf0\x9f\x98 ", b"\xf0\x28\x8c\xbc", b"\xc0\xaf", b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"caf\xe9 na\xefve", b"ok \xe4\xbd\xa0\xe5\xa5 end", bytes(range(128, 256)), b"<|im_\xffstart|>", b"\xef\xbf", b"\xc3\xa9\xa9",
]

LONG = [  # (text, copies): 100 kB each
    ("a", 100000), ("A", 100000), ("ab ", 33333), (" ", 100000), ("\n", 100000), ("\t", 100000), ("7", 100000), ("\u4f60\u597d\u4e16\u754c", 8333), ("\U0001f600", 25000), ("!", 100000), (" \n", 50000), ("\r\n", 50000),
    ("e\u0301", 33333), ("\u0e01\u0e33", 16666), ("The quick brown fox jumps over the lazy dog. ", 2222), ("aB1 \u00e9\n", 14000), ("don't I'm ", 10000), ("<|im_start|>", 8333), ("\u1100\u1161\u11a8", 11111), ("\u0915\u093c", 16666),
]


def random_texts():
    """Mixtures of characters of all kinds, which no person would type."""
    random.seed(20240131)
    pools = [
        "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " ", "   \t\n\r\n", "'.,;:!?-_()[]{}<>|/\\\"@#$%^&*+=~`",
        "\u00e9\u00e8\u00fc\u00f1\u00df\u00e7\u00f8", "\u0430\u0431\u0432\u0433\u0434\u0416\u042f", "\u03b1\u03b2\u03b3\u03a9", "\u4f60\u597d\u4e16\u754c\u7684", "\u3042\u30a2\u3093", "\ud55c\uae00", "\u0e01\u0e33\u0e49", "\u0627\u0644\u064e\u0651", "\u0905\u093c\u094d", "\u0300\u0301\u0308\u0323",
        "\U0001f600\u200d\ufe0f\U0001f3fd", "\u00b2\u00bd\u0663\u0967\u2167", "\u00a0\u2003\u3000\u200b\u2028", "\u2014\u2026\u201c\u20ac\u2200",
    ]
    for _ in range(120):
        chosen = random.sample(pools, random.randint(2, 7))
        yield "".join(random.choice(random.choice(chosen)) for _ in range(random.randint(3, 40)))
    for _ in range(60):
        text = ""
        while len(text) < 12:
            c = chr(random.choice([random.randrange(0x80, 0x3000), random.randrange(0x3000, 0x10000), random.randrange(0x10000, 0x20000)]))
            # Unassigned code points may be assigned in a newer Unicode than another program has.
            if unicodedata.category(c) not in ("Cn", "Cs", "Co"):
                text += c
        yield text


def main():
    entries = [{"text": t} for t in PLAIN + LOOK_ALIKES]
    entries += [{"text": t, "special": True} for t in LOOK_ALIKES]
    entries += [{"base64": base64.b64encode(b).decode()} for b in INVALID]
    entries += [{"text": t} for t in random_texts()]
    entries += [{"text": t, "repeat": n} for t, n in LONG]
    print("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]")


if __name__ == "__main__":
    main()
