"""Tables as text."""

from __future__ import annotations

from gta.tables import latex, markdown, plus_minus


def test_cells():
    assert [plus_minus(63.26, 2.14), plus_minus(0.4, None), plus_minus(0.0181, 0.002), plus_minus(None, None)] == [
        "63.3 ± 2.1", "0.40", "0.0181 ± 0.0020", None,
    ]  # fmt: skip
    assert markdown([{"a": "x|y", "b": None}]) == "| a | b |\n| --- | --- |\n| x\\|y | – |\n"
    assert markdown([]) == ""


def test_latex_escapes_what_tex_reads():
    text = latex([{"method": "l2_sp & 50 %", "− plain": "63.3 ± 2.1"}, {"method": r"a\b^{c}", "− plain": None}])
    assert text.splitlines() == [
        r"\begin{tabular}{ll}", r"\toprule", r"method & $-$ plain \\", r"\midrule",
        r"l2\_sp \& 50 \% & 63.3 $\pm$ 2.1 \\", r"a\textbackslash{}b\textasciicircum{}\{c\} & -- \\", r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip
    assert latex([]) == ""
