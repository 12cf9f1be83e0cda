"""Print the polynomial coefficients of ``activations.h`` and ``quick_cell.h`` of the compiled kernels.

Remez exchange in 60 digits (mpmath) for the error of q in

* exp(r) = 1 + r + r² q(r) on |r| <= ln(2) / 2,
* tanh(x) = x + x s q(s), s = x², on 0 <= s <= 0.625²,

for float32 and float64, and for the precisions for inference of

* exp2(r) = 1 + r q(r) on |r| <= 1/2.

Run: ``python tools/minimax.py`` (needs mpmath).
"""

from __future__ import annotations

from mpmath import mp, mpf

mp.dps = 60


def remez(f, weight, low, high, degree, rounds=12):
    """Coefficients q minimising max |weight(x) (f(x) - q(x))| on [low, high], and that maximum."""
    n = degree + 2
    points = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * n)) for k in range(n)]
    for _ in range(rounds):
        matrix = mp.matrix(n, n)
        right = mp.matrix(n, 1)
        for row, x in enumerate(points):
            for k in range(degree + 1):
                matrix[row, k] = x**k
            matrix[row, n - 1] = (-1) ** row / weight(x)
            right[row] = f(x)
        solution = mp.lu_solve(matrix, right)
        q = [solution[k] for k in range(degree + 1)]

        def error(x, q=q):
            return weight(x) * (f(x) - mp.polyval(q[::-1], x))

        grid = [low + (high - low) * mpf(k) / 2000 for k in range(2001)]
        values = [error(x) for x in grid]
        # one extremum between each two sign changes
        points, start = [], 0
        for k in range(1, 2002):
            if k == 2001 or values[k] * values[start] < 0:
                points.append(max(range(start, k), key=lambda j: abs(values[j])))
                start = k
        while len(points) > n:
            points.pop(0 if abs(values[points[0]]) < abs(values[points[-1]]) else -1)
        points = [grid[j] for j in points]
        if len(points) < n:
            raise RuntimeError(f"{len(points)} extrema where {n} were expected")
    return q, max(abs(v) for v in values)


def tanh_rest(s):
    """(tanh(x) / x - 1) / s with s = x²."""
    if s == 0:
        return mpf(-1) / 3
    x = mp.sqrt(s)
    return (mp.tanh(x) / x - 1) / s


def exp_rest(r):
    """(exp(r) - 1 - r) / r²."""
    return mpf(1) / 2 if abs(r) < mpf(10) ** -20 else (mp.exp(r) - 1 - r) / r**2


def exp2_rest(r):
    """(exp2(r) - 1) / r."""
    return mp.log(2) if abs(r) < mpf(10) ** -25 else (mpf(2) ** r - 1) / r


def main() -> None:
    half_ln2 = mp.log(2) / 2 * mpf("1.0001")
    for name, exp_degree, tanh_degree in (("float32", 4, 4), ("float64", 9, 11)):
        q, worst = remez(exp_rest, lambda r: mpf(1), -half_ln2, half_ln2, exp_degree)
        print(f"{name} exp, error of q {mp.nstr(worst, 3)}")
        print("\n".join(f"    {mp.nstr(c, 20)}" for c in q))
        q, worst = remez(tanh_rest, lambda s: mpf(1), mpf(0), mpf("0.625") ** 2, tanh_degree)
        print(f"{name} tanh, error of q {mp.nstr(worst, 3)}")
        print("\n".join(f"    {mp.nstr(c, 20)}" for c in q))
    q, worst = remez(exp2_rest, lambda r: 1 / mp.log(2), mpf("-0.5001"), mpf("0.5001"), 4)
    print(f"float32 exp2, error relative to its value {mp.nstr(worst, 3)}")
    print("\n".join(f"    {mp.nstr(c, 20)}" for c in q))


if __name__ == "__main__":
    main()
