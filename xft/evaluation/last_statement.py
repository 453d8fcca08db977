"""Has a program print a word where its tests end: if it does not, it has stopped before."""

import re

from xft.evaluation.languages import Language, as_built, main_class

# Statements by language. They have the word in two halves: so a program that prints its own text
# does not print the word.
BEHIND_THE_TESTS = {
    "py": '__import__("sys").__stdout__.write("LEFT" + "RIGHT")',
    "js": ';globalThis.process.on("exit", () => globalThis.process.stdout.write("LEFT" + "RIGHT"))',
    "php": 'echo "LEFT" . "RIGHT";',
    "sh": "builtin printf %s%s LEFT RIGHT",
    "pl": ';print STDOUT "LEFT" . "RIGHT";',
    "r": 'base::cat("LEFT", "RIGHT", sep = "")',
    "d": 'unittest { import core.stdc.stdio; printf("%s%s", "LEFT".ptr, "RIGHT".ptr); }',
    "lua": 'io.write("LEFT" .. "RIGHT") os.exit(xft_status)',
    # Tests of test/unit run when the file has ended.
    "rb": 'xft_end = -> { STDOUT.write("LEFT" + "RIGHT") }\n'
    "defined?(Test::Unit) ? Test::Unit.at_exit(&xft_end) : xft_end.call",
    "java": "class XftEnd { public static void main(String[] words) throws Throwable { "
    'MAIN.main(words); System.out.print("LEFT" + "RIGHT"); System.out.flush(); } }',
    "go_test.go": "func TestMain(m *testing.M) { xft_status := m.Run()\n"
    'xft_os.Stdout.WriteString("LEFT" + "RIGHT"); xft_os.Exit(xft_status) }',
}
BEHIND_THE_TESTS["ts"] = BEHIND_THE_TESTS["js"].replace("globalThis", "(globalThis as any)")
# Where the tests are in `main`: at its start, to run when it returns.
IN_MAIN = {
    "cpp": """#undef NDEBUG
#ifdef _ASSERT_H
#include <assert.h>  // after a macro of the program's own
#endif
struct XftEnd { ~XftEnd() { __builtin_printf("%s%s", "LEFT", "RIGHT"); } } xft_end;
""",
    "rs": "struct XftEnd; impl Drop for XftEnd { "
    'fn drop(&mut self) { println!("{}{}", "LEFT", "RIGHT"); } } let _xft_end = XftEnd;',
    "go": 'defer xft_os.Stdout.WriteString("LEFT" + "RIGHT");',
}
START_OF_MAIN = re.compile(r"\bmain\s*\([^()]*\)[^{};]*\{")
GO_PACKAGE = re.compile(r"^package\s+\w+", re.MULTILINE)
LUA_EXIT = re.compile(r"\bos\.exit\((.+)\)\s*\Z")  # as MultiPL-E's tests end


def with_word(language: Language, program: str, word: str) -> str:
    """The program that prints a word of letters and digits at its end, if its last test ran."""
    name, half = as_built(language, program).name, len(word) // 2
    statement = (IN_MAIN | BEHIND_THE_TESTS)[name].replace("MAIN", main_class(program))
    statement = statement.replace("LEFT", word[:half]).replace("RIGHT", word[half:])
    if language.name == "go":
        program = GO_PACKAGE.sub(r'\g<0>; import xft_os "os"', program, count=1)
    elif language.name == "lua":
        program = LUA_EXIT.sub(r"local xft_status = \1", program)
    starts = [found.end() for found in START_OF_MAIN.finditer(program)] if name in IN_MAIN else []
    place = starts[-1] if starts else len(program)
    return f"{program[:place]}\n{statement}{program[place:]}"
