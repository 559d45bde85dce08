"""Turn JSON objects into Arrow columns in one strict pass, where that is beyond doubt.

    value  = space | space object space         a blank or null value is a row of nulls
    object = { } | { member , … }               member = "name" : cell, in any order
    cell   = null | what the column's type takes, in its plainest form

`flowguard/intake/codec/rows.py` is the law of what a value means. A value that this parser
does not read to its last byte as one plain object is *doubtful*: its row is null, marked,
and left to the law. So this may refuse anything, but must not read anything differently.

Two passes: the first finds every cell, stores those of a fixed width and notes where text
lies; the second copies text into Arrow buffers of exactly the right size.

Bound: the columns, and 8 bytes a row and text column while it runs.
Thread-safety: an `ObjectReader` never changes; the GIL is released while parsing.
Budget: <= 300 ns a record of 185 B and 6 columns.
Source: RFC 8259 (JSON); Clinger, "How to read floating point numbers accurately" (1990);
    Lemire, "Number parsing at a gigabyte per second" (2021), section 5;
    Hinnant, "chrono-compatible low-level date algorithms" (days of a civil date).
"""
cimport cython
from libc.math cimport isinf
from libc.stdint cimport (
    INT64_MAX,
    int32_t,
    int64_t,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
    uintptr_t,
)
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from includes.text_scan cimport plain_end

import pyarrow as pa

cdef enum:
    QUOTE = 34
    PLUS = 43
    COMMA = 44
    MINUS = 45
    POINT = 46
    ZERO = 48
    COLON = 58
    BACKSLASH = 92

cdef enum:
    DEPTH_MAX = 64                  # of a member that is no column
    DIGITS_MAX = 19                 # 10**19 - 1 fits 64 bits, and so does 10**19
    NUMBER_BYTES_MAX = 32           # of a number in a member that is no column
    EXPONENT_DIGITS_MAX = 4
    EXACT_INTEGER_BITS = 53
    EXACT_POWER_MAX = 22            # 10**22 is the highest power that a double holds exactly
    SCALE_MAX = 100                 # of powers of ten; those beyond are left to the law
    SECONDS_A_DAY = 86400
    BLOCK_ROWS = 256                # whose text is copied at a time
    DAYS_TO_1970 = 719468           # since 0000-03-01

cdef struct Scale:                  # 128 bits of 5**power, the first of them 1
    uint64_t high
    uint64_t low


cdef Scale[2 * SCALE_MAX + 1] SCALES


cdef void prepare_scales():
    """Fill in the powers: those below one rounded up, all others cut off."""
    for power in range(-SCALE_MAX, SCALE_MAX + 1):
        five = 5 ** abs(power)
        bits = five.bit_length()
        if power >= 0:
            scale = five << 128 >> bits
        elif power >= -27:
            scale = (1 << bits + 127) // five + 1
        else:
            scale = (1 << 2 * bits + 128) // five + 1
            scale >>= scale.bit_length() - 128
        SCALES[power + SCALE_MAX].high = scale >> 64
        SCALES[power + SCALE_MAX].low = scale & 0xFFFFFFFFFFFFFFFF


prepare_scales()

cdef int64_t NS_SECONDS_MAX = 9223372035        # that nanoseconds in 64 bits can count

cdef double[EXACT_POWER_MAX + 1] EXACT_POWERS = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
]
cdef uint64_t[DIGITS_MAX + 1] POWERS
cdef Py_ssize_t _power
POWERS[0] = 1
for _power in range(DIGITS_MAX):
    POWERS[_power + 1] = POWERS[_power] * 10


cdef enum Kind:
    NOTHING                         # the type null
    BOOL
    SIGNED
    UNSIGNED
    FLOAT
    DECIMAL
    DATE
    TIMESTAMP
    TEXT


cdef struct Column:
    Kind kind
    int width                       # bytes a cell; 0 for bits and text
    const uint8_t* name
    Py_ssize_t name_size            # -1 for a name that JSON can only write with escapes
    int64_t low                     # what it holds; `high` unsigned, so that it fits uint64
    uint64_t high
    int precision
    int scale
    int64_t per_second


cdef struct Text:                   # between its quotes
    const uint8_t* data
    const uint8_t* end
    int64_t saved                   # bytes that escapes take more than what they stand for


cdef struct Place:                  # of the text of one cell
    int32_t start                   # in the bytes of all values; ~start if it has escapes
    int32_t size                    # without escapes


cdef struct Cells:                  # of one column, as they are read
    uint8_t* bits                   # 1: not null
    uint8_t* fixed
    Place* places
    int64_t num_valid
    int64_t num_bytes
    int64_t last_row                # that had this member, to notice it twice
    int32_t* ends                   # of text, filled by the second pass
    uint8_t* text
    int64_t filled


cdef struct Digits:                 # [-]digits[.digits]
    uint64_t number
    int count                       # without leading zeros
    int fraction
    bint negative
    bint padded                     # begins with a zero that JSON does not allow


ctypedef const uint8_t* Bytes


cdef extern from *:
    """
    static inline int is_little(void) {
        const unsigned short one = 1;
        return *(const unsigned char*)&one;
    }
    """
    int is_little() noexcept nogil

cdef bint IS_LITTLE = is_little()


# --- Syntax -------------------------------------------------------------------------------

cdef inline Bytes skip_space(Bytes at, Bytes end) noexcept nogil:
    while at < end and at[0] <= 32 and (at[0] == 32 or at[0] == 10 or at[0] == 13 or at[0] == 9):
        at += 1
    return at


cdef inline bint is_digit(uint8_t byte) noexcept nogil:
    return <uint8_t>(byte - ZERO) <= 9


cdef inline Bytes read_word(Bytes at, Bytes end, const char* word, Py_ssize_t size) noexcept nogil:
    if end - at < size or memcmp(at, word, size) != 0:
        return NULL
    return at + size


cdef inline bint is_continued(Bytes at, int low, int high) noexcept nogil:
    return low <= at[0] <= high


cdef Bytes skip_character(Bytes at, Bytes end) noexcept nogil:
    """Step over one character that is not ASCII; NULL if it is no UTF-8 (RFC 3629)."""
    cdef uint8_t lead = at[0]
    cdef Py_ssize_t left = end - at
    if 0xC2 <= lead <= 0xDF:
        return at + 2 if left >= 2 and is_continued(at + 1, 0x80, 0xBF) else NULL
    if 0xE0 <= lead <= 0xEF:
        if left < 3 or not is_continued(at + 2, 0x80, 0xBF):
            return NULL
        if not is_continued(at + 1, 0xA0 if lead == 0xE0 else 0x80, 0x9F if lead == 0xED else 0xBF):
            return NULL
        return at + 3
    if 0xF0 <= lead <= 0xF4:
        if left < 4 or not is_continued(at + 2, 0x80, 0xBF) or not is_continued(at + 3, 0x80, 0xBF):
            return NULL
        if not is_continued(at + 1, 0x90 if lead == 0xF0 else 0x80, 0x8F if lead == 0xF4 else 0xBF):
            return NULL
        return at + 4
    return NULL


cdef inline int hex_value(uint8_t byte) noexcept nogil:
    if is_digit(byte):
        return byte - ZERO
    byte |= 32
    return byte - 87 if 97 <= byte <= 102 else -1


cdef int32_t read_unit(Bytes at, Bytes end) noexcept nogil:
    """Return the UTF-16 unit of `\\uXXXX`, -1 if it is none."""
    cdef int32_t unit = 0
    cdef int i, value
    if end - at < 6 or at[0] != BACKSLASH or at[1] != 117:
        return -1
    for i in range(2, 6):
        value = hex_value(at[i])
        if value < 0:
            return -1
        unit = unit << 4 | value
    return unit


cdef inline uint8_t unescaped(uint8_t byte) noexcept nogil:
    """Return what a backslash and this byte stand for, 0 if nothing."""
    if byte == QUOTE or byte == BACKSLASH or byte == 47:
        return byte
    if byte == 110:         # n
        return 10
    if byte == 116:         # t
        return 9
    if byte == 114:         # r
        return 13
    if byte == 98:          # b
        return 8
    return 12 if byte == 102 else 0


cdef Bytes skip_escape(Bytes at, Bytes end, int64_t* saved) noexcept nogil:
    """Step over an escape; NULL if it is none, or one half of a pair."""
    cdef int32_t unit, second
    if end - at < 2:
        return NULL
    if at[1] != 117:
        saved[0] += 1
        return at + 2 if unescaped(at[1]) else NULL
    unit = read_unit(at, end)
    if unit < 0 or 0xDC00 <= unit <= 0xDFFF:
        return NULL
    if unit < 0xD800 or unit > 0xDFFF:
        saved[0] += 5 if unit < 0x80 else 4 if unit < 0x800 else 3
        return at + 6
    second = read_unit(at + 6, end)
    if not 0xDC00 <= second <= 0xDFFF:
        return NULL
    saved[0] += 8
    return at + 12


cdef inline Bytes read_text(Bytes at, Bytes end, Text* text) noexcept nogil:
    """Read text from after its first quote, and return where it goes on after the last."""
    text.data = at
    text.saved = 0
    while True:
        at = plain_end(at, end)
        if at == end:
            return NULL
        if at[0] == QUOTE:
            text.end = at
            return at + 1
        if at[0] == BACKSLASH:
            at = skip_escape(at, end, &text.saved)
        else:
            # A control character is refused here too: it is no lead byte.
            at = skip_character(at, end)
            while at != NULL and at < end and at[0] >= 0x80:
                at = skip_character(at, end)
        if at == NULL:
            return NULL


cdef uint8_t* write_character(uint8_t* out, int32_t code) noexcept nogil:
    if code < 0x80:
        out[0] = <uint8_t>code
        return out + 1
    if code < 0x800:
        out[0] = <uint8_t>(0xC0 | code >> 6)
        out[1] = <uint8_t>(0x80 | code & 0x3F)
        return out + 2
    if code < 0x10000:
        out[0] = <uint8_t>(0xE0 | code >> 12)
        out[1] = <uint8_t>(0x80 | code >> 6 & 0x3F)
        out[2] = <uint8_t>(0x80 | code & 0x3F)
        return out + 3
    out[0] = <uint8_t>(0xF0 | code >> 18)
    out[1] = <uint8_t>(0x80 | code >> 12 & 0x3F)
    out[2] = <uint8_t>(0x80 | code >> 6 & 0x3F)
    out[3] = <uint8_t>(0x80 | code & 0x3F)
    return out + 4


cdef void write_unescaped(uint8_t* out, Bytes at, int32_t size) noexcept nogil:
    """Write text that `read_text` accepted; `size` is what comes out."""
    cdef uint8_t* stop = out + size
    cdef int32_t code
    while out < stop:
        if at[0] != BACKSLASH:
            out[0] = at[0]
            out += 1
            at += 1
        elif at[1] != 117:
            out[0] = unescaped(at[1])
            out += 1
            at += 2
        else:
            code = read_unit(at, at + 6)
            at += 6
            if 0xD800 <= code <= 0xDFFF:
                code = 0x10000 + ((code - 0xD800) << 10) + read_unit(at, at + 6) - 0xDC00
                at += 6
            out = write_character(out, code)


cdef inline Bytes read_digits(Bytes at, Bytes end, Digits* out) noexcept nogil:
    """Read `[-]digits[.digits]`; NULL if it is none or has too many digits."""
    cdef uint64_t number = 0
    cdef Bytes start
    cdef Bytes point
    cdef Bytes first
    out.negative = at < end and at[0] == MINUS
    at += out.negative
    start = at
    while at < end and at[0] == ZERO:
        at += 1
    first = at
    while at < end and is_digit(at[0]):
        number = number * 10 + (at[0] - ZERO)
        at += 1
    if at == start:
        return NULL
    out.padded = first > start and at - start > 1
    out.count = <int>min(at - first, DIGITS_MAX + 1)
    out.fraction = 0
    if at < end and at[0] == POINT:
        at += 1
        point = at
        if not out.count:
            while at < end and at[0] == ZERO:
                at += 1
        first = at
        while at < end and is_digit(at[0]):
            number = number * 10 + (at[0] - ZERO)
            at += 1
        if at == point or at - point > NUMBER_BYTES_MAX:
            return NULL
        out.count += <int>(at - first)
        out.fraction = <int>(at - point)
    out.number = number
    return at if out.count <= DIGITS_MAX else NULL


cdef Bytes skip_number(Bytes at, Bytes end) noexcept nogil:
    """Step over a number of JSON; NULL if it is none or is a long one."""
    cdef Digits digits
    cdef Bytes start = at
    at = read_digits(at, end, &digits)
    if at == NULL or digits.padded:
        return NULL
    if at < end and at[0] | 32 == 101:
        at += 1
        if at < end and (at[0] == MINUS or at[0] == PLUS):
            at += 1
        if at == end or not is_digit(at[0]):
            return NULL
        while at < end and is_digit(at[0]):
            at += 1
    return at if at - start <= NUMBER_BYTES_MAX else NULL


cdef Bytes skip_value(Bytes at, Bytes end, int depth) noexcept nogil:
    """Step over any value; NULL if it is none or nests deeper than `depth`."""
    cdef Text text
    cdef uint8_t closing
    if at == end:
        return NULL
    if at[0] == QUOTE:
        return read_text(at + 1, end, &text)
    if at[0] == 116:                            # t
        return read_word(at, end, b"true", 4)
    if at[0] == 102:                            # f
        return read_word(at, end, b"false", 5)
    if at[0] == 110:                            # n
        return read_word(at, end, b"null", 4)
    if at[0] != 91 and at[0] != 123:            # [ {
        return skip_number(at, end)
    if depth == 0:
        return NULL
    closing = at[0] + 2                         # ] }
    at = skip_space(at + 1, end)
    if at < end and at[0] == closing:
        return at + 1
    while at < end:
        if closing == 125:
            if at[0] != QUOTE:
                return NULL
            at = read_text(at + 1, end, &text)
            if at == NULL:
                return NULL
            at = skip_space(at, end)
            if at == end or at[0] != COLON:
                return NULL
            at = skip_space(at + 1, end)
        at = skip_value(at, end, depth - 1)
        if at == NULL:
            return NULL
        at = skip_space(at, end)
        if at == end:
            return NULL
        if at[0] == closing:
            return at + 1
        if at[0] != COMMA:
            return NULL
        at = skip_space(at + 1, end)
    return NULL


# --- Cells --------------------------------------------------------------------------------
# Each reads one cell that is not null, stores it and returns where to go on; NULL: in doubt.

cdef inline void store(Cells* cells, int width, int64_t row, uint64_t number) noexcept nogil:
    if width == 8:
        (<uint64_t*>cells.fixed)[row] = number
    elif width == 4:
        (<uint32_t*>cells.fixed)[row] = <uint32_t>number
    elif width == 2:
        (<uint16_t*>cells.fixed)[row] = <uint16_t>number
    else:
        cells.fixed[row] = <uint8_t>number


cdef inline Bytes read_count(
    const Column* column, Cells* cells, int64_t row, Bytes at, Bytes end
) noexcept nogil:
    """Read an integer without point and exponent that the column holds."""
    cdef uint64_t number = 0
    cdef uint64_t digit
    cdef bint negative = at < end and at[0] == MINUS
    cdef Bytes start
    at += negative
    start = at
    while at < end and is_digit(at[0]):
        digit = at[0] - ZERO
        if at - start >= DIGITS_MAX and number > (<uint64_t>-1 - digit) / 10:
            return NULL
        number = number * 10 + digit
        at += 1
    if at == start or (at - start > 1 and start[0] == ZERO) or at - start > DIGITS_MAX + 1:
        return NULL
    if negative:
        # The magnitude of the lowest one, computed without overflow.
        if number > <uint64_t>0 - <uint64_t>column.low:
            return NULL
        number = <uint64_t>0 - number
    elif number > column.high:
        return NULL
    store(cells, column.width, row, number)
    return at


cdef inline void multiply(
    uint64_t one, uint64_t other, uint64_t* low, uint64_t* high
) noexcept nogil:
    """Multiply 64 by 64 bits to 128, in plain C."""
    cdef uint64_t mask = 0xFFFFFFFF
    cdef uint64_t bottom = (one & mask) * (other & mask)
    cdef uint64_t middle = (one >> 32) * (other & mask) + (bottom >> 32)
    cdef uint64_t second = (one & mask) * (other >> 32) + (middle & mask)
    low[0] = second << 32 | bottom & mask
    high[0] = (one >> 32) * (other >> 32) + (middle >> 32) + (second >> 32)


cdef double round_scaled(uint64_t number, int power) noexcept nogil:
    """Return number x 10**power rounded once; -1 if it is too close to call.

    Args:
        number: Not 0.
        power: Within SCALE_MAX either way, so that the result is neither infinite nor tiny.
    """
    cdef int shift = 32, upper, binary = 0
    cdef uint64_t low, high, rest, second, mantissa
    cdef double result
    while shift:
        if not number >> (64 - shift):
            number <<= shift
            binary -= shift
        shift >>= 1
    multiply(number, SCALES[power + SCALE_MAX].high, &low, &high)
    if high & 0x1FF == 0x1FF:       # what was left out may carry into the bits that count
        multiply(number, SCALES[power + SCALE_MAX].low, &rest, &second)
        low += second
        high += low < second
    if low == <uint64_t>-1 and not -27 <= power <= 55:
        return -1
    upper = <int>(high >> 63)
    mantissa = high >> (upper + 9)  # 53 bits, and one to round by
    if low <= 1 and -4 <= power <= 23 and mantissa & 3 == 1:
        if mantissa << (upper + 9) == high:
            mantissa -= 1           # exactly in the middle: to even
    mantissa = (mantissa + (mantissa & 1)) >> 1
    # 217706 / 2**16 is the binary logarithm of 10; the offset keeps what is shifted positive.
    binary += <int>((<int64_t>217706 * (power + 32768) >> 16) - 108853) + upper + 63 + 1023
    if mantissa >> 53:
        mantissa >>= 1
        binary += 1
    mantissa = mantissa & ((<uint64_t>1 << 52) - 1) | <uint64_t>binary << 52
    memcpy(&result, &mantissa, sizeof(double))
    return result


cdef Bytes read_float(
    const Column* column, Cells* cells, int64_t row, Bytes at, Bytes end
) noexcept nogil:
    cdef Digits digits
    cdef int exponent = 0, count = 0
    cdef bint negative = False, whole
    cdef double number
    cdef float single
    at = read_digits(at, end, &digits)
    if at == NULL or digits.padded:
        return NULL
    whole = digits.fraction == 0
    if at < end and at[0] | 32 == 101:          # e
        at += 1
        whole = False
        if at < end and (at[0] == MINUS or at[0] == PLUS):
            negative = at[0] == MINUS
            at += 1
        while at < end and is_digit(at[0]):
            exponent = exponent * 10 + (at[0] - ZERO)
            count += 1
            if count > EXPONENT_DIGITS_MAX:
                return NULL
            at += 1
        if count == 0:
            return NULL
        if negative:
            exponent = -exponent
    exponent -= digits.fraction
    if whole:
        number = <double>digits.number              # rounds once, as Python does
    elif (
        not digits.number >> EXACT_INTEGER_BITS
        and -EXACT_POWER_MAX <= exponent <= EXACT_POWER_MAX
    ):
        # Both operands are exact, so that one operation rounds once.
        number = <double>digits.number
        if exponent < 0:
            number /= EXACT_POWERS[-exponent]
        else:
            number *= EXACT_POWERS[exponent]
    elif digits.number and -SCALE_MAX <= exponent <= SCALE_MAX:
        number = round_scaled(digits.number, exponent)
        if number < 0:
            return NULL
    else:
        return NULL
    if digits.negative and not (whole and digits.number == 0):     # the integer -0 is 0
        number = -number
    if column.width == 8:
        (<double*>cells.fixed)[row] = number
        return at
    single = <float>number
    if isinf(single):
        return NULL
    (<float*>cells.fixed)[row] = single
    return at


cdef inline Bytes read_decimal(
    const Column* column, Cells* cells, int64_t row, Bytes at, Bytes end
) noexcept nogil:
    cdef Digits digits
    cdef uint64_t low, high
    cdef uint64_t* out
    cdef int missing
    cdef bint is_text = at < end and at[0] == QUOTE
    at = read_digits(at + is_text, end, &digits)
    if at == NULL:
        return NULL
    if is_text:
        if at == end or at[0] != QUOTE:
            return NULL
        at += 1
    elif digits.padded:
        return NULL
    missing = column.scale - digits.fraction
    if not 0 <= missing <= DIGITS_MAX or digits.count + missing > column.precision:
        return NULL
    multiply(digits.number, POWERS[missing], &low, &high)
    if digits.negative:
        low = <uint64_t>0 - low
        high = ~high + (low == 0)
    out = <uint64_t*>(cells.fixed + row * 16)
    # Arrow's order is that of the machine.
    if IS_LITTLE:
        out[0], out[1] = low, high
    else:
        out[0], out[1] = high, low
    return at


cdef inline int read_two(Bytes at) noexcept nogil:
    """Return two digits as a number, -1 if they are none."""
    if not is_digit(at[0]) or not is_digit(at[1]):
        return -1
    return (at[0] - ZERO) * 10 + (at[1] - ZERO)


cdef inline int days_in(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


cdef inline bint read_days(Bytes at, Bytes end, int64_t* days) noexcept nogil:
    """Read `YYYY-MM-DD` of the years 1 to 9999 as days since 1970."""
    cdef int century, year, month, day, era, of_era
    if end - at < 10 or at[4] != MINUS or at[7] != MINUS:
        return False
    century, year, month, day = read_two(at), read_two(at + 2), read_two(at + 5), read_two(at + 8)
    if century < 0 or year < 0:
        return False
    year += century * 100
    if year == 0 or not 1 <= month <= 12 or not 1 <= day <= days_in(year, month):
        return False
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    day += (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 - 1
    days[0] = era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + day - DAYS_TO_1970
    return True


cdef Bytes read_date(
    const Column* column, Cells* cells, int64_t row, Bytes at, Bytes end
) noexcept nogil:
    cdef int64_t days
    if at[0] != QUOTE:
        return read_count(column, cells, row, at, end)
    if not read_days(at + 1, end, &days) or end - at < 12 or at[11] != QUOTE:
        return NULL
    (<int32_t*>cells.fixed)[row] = <int32_t>days
    return at + 12


cdef Bytes read_timestamp(
    const Column* column, Cells* cells, int64_t row, Bytes at, Bytes end
) noexcept nogil:
    """Read a count, or `YYYY-MM-DD[(T| )HH:MM:SS[.digits][Z|±HH:MM]]`."""
    cdef int64_t seconds, count
    cdef int64_t part = 0, place = 1000000000
    cdef int hour, minute, second
    cdef bint negative
    if at[0] != QUOTE:
        return read_count(column, cells, row, at, end)
    at += 1
    if not read_days(at, end, &seconds):
        return NULL
    at += 10
    seconds *= SECONDS_A_DAY
    if at < end and (at[0] == 84 or at[0] == 32):       # T
        if end - at < 9 or at[3] != COLON or at[6] != COLON:
            return NULL
        hour, minute, second = read_two(at + 1), read_two(at + 4), read_two(at + 7)
        if not (0 <= hour <= 23 and 0 <= minute <= 59 and 0 <= second <= 59):
            return NULL
        seconds += hour * 3600 + minute * 60 + second
        at += 9
        if at < end and at[0] == POINT:
            at += 1
            while at < end and is_digit(at[0]):
                if place == 1:
                    return NULL
                place //= 10
                part += (at[0] - ZERO) * place
                at += 1
            if place == 1000000000:
                return NULL
        if at < end and at[0] == 90:                    # Z
            at += 1
        elif at < end and (at[0] == PLUS or at[0] == MINUS):
            if end - at < 6 or at[3] != COLON:
                return NULL
            negative = at[0] == MINUS
            hour, minute = read_two(at + 1), read_two(at + 4)
            if not (0 <= hour <= 23 and 0 <= minute <= 59):
                return NULL
            second = hour * 3600 + minute * 60
            seconds += second if negative else -second
            at += 6
    if at == end or at[0] != QUOTE:
        return NULL
    place = 1000000000 // column.per_second             # nanoseconds a unit
    if part % place != 0:
        return NULL
    # Only nanoseconds can overflow: the years 1 to 9999 are less than 2**39 seconds.
    if place == 1 and (seconds > NS_SECONDS_MAX or seconds < -NS_SECONDS_MAX):
        return NULL
    count = seconds * column.per_second + part // place
    if count < column.low or (count > 0 and <uint64_t>count > column.high):
        return NULL
    (<int64_t*>cells.fixed)[row] = count
    return at + 1


cdef inline Bytes read_place(
    Cells* cells, int64_t row, Bytes at, Bytes end, Bytes data
) noexcept nogil:
    cdef Text text
    cdef Place* place = cells.places + row
    if at[0] != QUOTE:
        return NULL
    at = read_text(at + 1, end, &text)
    if at == NULL:
        return NULL
    place.size = <int32_t>(text.end - text.data - text.saved)
    place.start = <int32_t>(text.data - data)
    if text.saved:
        place.start = ~place.start
    cells.num_bytes += place.size
    return at


cdef inline Bytes read_bool(Cells* cells, int64_t row, Bytes at, Bytes end) noexcept nogil:
    if at[0] == 116:
        cells.fixed[row >> 3] |= <uint8_t>(1 << (row & 7))
        return read_word(at, end, b"true", 4)
    return read_word(at, end, b"false", 5)


cdef inline Bytes read_cell(
    const Column* column, Cells* cells, int64_t row, Bytes at, Bytes end, Bytes data
) noexcept nogil:
    if column.kind == TEXT:
        at = read_place(cells, row, at, end, data)
    elif column.kind == SIGNED or column.kind == UNSIGNED:
        at = read_count(column, cells, row, at, end)
    elif column.kind == DECIMAL:
        at = read_decimal(column, cells, row, at, end)
    elif column.kind == FLOAT:
        at = read_float(column, cells, row, at, end)
    elif column.kind == TIMESTAMP:
        at = read_timestamp(column, cells, row, at, end)
    elif column.kind == BOOL:
        at = read_bool(cells, row, at, end)
    elif column.kind == DATE:
        at = read_date(column, cells, row, at, end)
    else:
        return NULL
    if at != NULL:
        cells.bits[row >> 3] |= <uint8_t>(1 << (row & 7))
        cells.num_valid += 1
    return at


# --- Rows ---------------------------------------------------------------------------------

cdef inline bint is_named(const Column* column, Bytes at, Bytes end) noexcept nogil:
    """Return whether the column's name and a quote are next."""
    return (
        0 <= column.name_size < end - at
        and at[column.name_size] == QUOTE
        and memcmp(at, column.name, column.name_size) == 0
    )


cdef Py_ssize_t find_column(
    const Column* columns, Py_ssize_t count, Py_ssize_t first, const Text* name
) noexcept nogil:
    """Return the column of that name, looking from `first` on and around; -1 if none."""
    cdef Py_ssize_t i, at, size = name.end - name.data
    for i in range(count):
        at = first + i
        if at >= count:
            at -= count
        if columns[at].name_size == size and memcmp(columns[at].name, name.data, size) == 0:
            return at
    return -1


cdef bint read_object(
    const Column* columns, Cells* cells, Py_ssize_t count, bint closed,
    int64_t row, Bytes at, Bytes end, Bytes data,
) noexcept nogil:
    """Read one value into its row; False if it is in doubt, then some cells may be stored."""
    cdef Py_ssize_t expected = 0
    cdef Py_ssize_t found
    cdef Text name
    at = skip_space(at, end)
    if at == end:
        return True
    if at[0] != 123:
        return False
    at = skip_space(at + 1, end)
    if at < end and at[0] == 125:
        return skip_space(at + 1, end) == end
    while at < end and at[0] == QUOTE:
        at += 1
        if expected < count and is_named(&columns[expected], at, end):
            found = expected
            at += columns[found].name_size + 1
        else:
            at = read_text(at, end, &name)
            if at == NULL or name.saved:
                return False
            found = find_column(columns, count, expected, &name)
        at = skip_space(at, end)
        if at == end or at[0] != COLON:
            return False
        at = skip_space(at + 1, end)
        if at == end:
            return False
        if found < 0:
            if closed:
                return False
            at = skip_value(at, end, DEPTH_MAX)
        else:
            if cells[found].last_row == row:
                return False
            cells[found].last_row = row
            expected = found + 1
            if at[0] == 110:
                at = read_word(at, end, b"null", 4)
            else:
                at = read_cell(&columns[found], &cells[found], row, at, end, data)
        if at == NULL:
            return False
        at = skip_space(at, end)
        if at == end:
            return False
        if at[0] == 125:
            return skip_space(at + 1, end) == end
        if at[0] != COMMA:
            return False
        at = skip_space(at + 1, end)
    return False


cdef void forget_row(
    const Column* columns, Cells* cells, Py_ssize_t count, int64_t row
) noexcept nogil:
    """Make the cells of a row null again."""
    cdef Py_ssize_t i
    cdef uint8_t bit = <uint8_t>(1 << (row & 7))
    for i in range(count):
        if cells[i].bits[row >> 3] & bit:
            cells[i].bits[row >> 3] &= <uint8_t>~bit
            cells[i].num_valid -= 1
            if columns[i].kind == TEXT:
                cells[i].num_bytes -= cells[i].places[row].size


cdef void copy_text(Cells* cells, int64_t first, int64_t last, Bytes data) noexcept nogil:
    """Copy the text of some rows of a column, one cell after the other."""
    cdef int64_t row
    cdef Place place
    for row in range(first, last):
        if cells.bits[row >> 3] >> (row & 7) & 1:
            place = cells.places[row]
            if place.start < 0:
                write_unescaped(cells.text + cells.filled, data + ~place.start, place.size)
            else:
                memcpy(cells.text + cells.filled, data + place.start, place.size)
            cells.filled += place.size
        cells.ends[row + 1] = <int32_t>cells.filled


# --- Buffers ------------------------------------------------------------------------------

cdef uint8_t* address_of(buffer) except? NULL:
    """Return where an Arrow buffer starts, NULL for an absent one."""
    return NULL if buffer is None else <uint8_t*><uintptr_t>buffer.address


cdef zeroed(Py_ssize_t size):
    """Return a buffer of so many zeros."""
    buffer = pa.allocate_buffer(size)
    if size > 0:
        memset(address_of(buffer), 0, size)
    return buffer


@cython.final
cdef class Scratch:
    """The values that one call reads, and the columns that it fills."""

    cdef Cells* cells
    cdef Py_ssize_t count
    cdef list buffers               # of each column: null bits, then what its type has
    cdef object source              # keeps the values
    cdef const uint8_t* bits
    cdef const int32_t* ends
    cdef const uint8_t* data
    cdef int64_t start
    cdef int64_t rows
    cdef object doubtful_buffer
    cdef uint8_t* doubtful
    cdef int64_t num_doubtful

    def __cinit__(self, Py_ssize_t count, values):
        self.source = values
        self.start, self.rows = values.offset, len(values)
        bits, ends, data = values.buffers()
        self.bits = address_of(bits)
        self.ends = <const int32_t*>address_of(ends)
        self.data = address_of(data)
        if self.data == NULL:       # nothing but empty values: there are no bytes to point to
            self.data = <const uint8_t*>b""
        self.doubtful_buffer = zeroed((self.rows + 7) // 8)
        self.doubtful = address_of(self.doubtful_buffer)
        self.buffers = [None] * count
        self.cells = <Cells*>calloc(count + 1, sizeof(Cells))
        if self.cells == NULL:
            raise MemoryError
        self.count = count

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            free(self.cells[i].places)
        free(self.cells)

    cdef int open(self, Py_ssize_t i, const Column* column) except -1:
        """Allocate what the first pass fills."""
        cdef Cells* cells = &self.cells[i]
        bits = zeroed((self.rows + 7) // 8)
        self.buffers[i] = [bits]
        cells.bits = address_of(bits)
        cells.last_row = -1
        if column.kind == TEXT:
            cells.places = <Place*>malloc((self.rows + 1) * sizeof(Place))
            if cells.places == NULL:
                raise MemoryError
        elif column.kind != NOTHING:
            fixed = zeroed(self.rows * column.width if column.width else (self.rows + 7) // 8)
            self.buffers[i].append(fixed)
            cells.fixed = address_of(fixed)
        return 0

    cdef int open_text(self, Py_ssize_t i, const Column* column) except -1:
        """Allocate what the second pass fills."""
        cdef Cells* cells = &self.cells[i]
        if column.kind == TEXT:
            ends = pa.allocate_buffer((self.rows + 1) * sizeof(int32_t))
            text = pa.allocate_buffer(cells.num_bytes)
            self.buffers[i] += [ends, text]
            cells.ends = <int32_t*>address_of(ends)
            cells.ends[0] = 0
            cells.text = address_of(text)
        return 0

    cdef close(self, Py_ssize_t i, kind):
        """Return a column."""
        nulls = self.rows - self.cells[i].num_valid
        if pa.types.is_null(kind):
            return pa.nulls(self.rows)
        if not nulls:
            self.buffers[i][0] = None
        return pa.Array.from_buffers(kind, self.rows, self.buffers[i], nulls)


# --- The reader ---------------------------------------------------------------------------

cdef int describe(Column* column, kind) except -1:
    """Fill in what the type of a column says; False if it cannot be read here."""
    if pa.types.is_null(kind):
        column.kind = NOTHING
    elif pa.types.is_boolean(kind):
        column.kind = BOOL
    elif pa.types.is_integer(kind):
        column.width = kind.bit_width // 8
        if pa.types.is_signed_integer(kind):
            column.kind = SIGNED
            column.low, column.high = -(1 << kind.bit_width - 1), (1 << kind.bit_width - 1) - 1
        else:
            column.kind = UNSIGNED
            column.low, column.high = 0, (1 << kind.bit_width) - 1
    elif pa.types.is_float32(kind) or pa.types.is_float64(kind):
        column.kind, column.width = FLOAT, kind.bit_width // 8
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        column.kind = TEXT
    elif pa.types.is_decimal128(kind):
        if kind.scale < 0:
            return False
        column.kind, column.width = DECIMAL, 16
        column.precision, column.scale = kind.precision, kind.scale
    elif pa.types.is_date32(kind):
        column.kind, column.width = DATE, 4
        column.low, column.high = -(1 << 31), (1 << 31) - 1
    elif pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        column.kind = TIMESTAMP if pa.types.is_timestamp(kind) else SIGNED
        column.width = 8
        column.per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        # Polars has no seconds: it holds them as milliseconds, in the same 64 bits.
        column.low, column.high = -INT64_MAX - 1, INT64_MAX
        if kind.unit == "s":
            column.low, column.high = -INT64_MAX // 1000, INT64_MAX // 1000 - 1
    else:
        return False
    return True


@cython.final
cdef class ObjectReader:
    """Reads JSON objects into the columns of a schema, and says which values it did not.

    Args:
        schema: The columns; each of a type that `supports` knows.
        closed: A value with a member that is no column is doubtful, not read without it.

    Raises:
        TypeError: A column is of another type.
        ValueError: Two columns have one name.
    """

    cdef Column* columns
    cdef Py_ssize_t count
    cdef bint closed
    cdef list names                 # holds the bytes that the columns point to
    cdef list types

    def __cinit__(self, schema, *, bint closed=False):
        cdef Py_ssize_t i
        cdef bytes name
        self.closed = closed
        self.types = [field.type for field in schema]
        self.names = [field.name.encode() for field in schema]
        if len(set(self.names)) < len(self.names):
            raise ValueError("two columns have one name")
        self.columns = <Column*>calloc(len(self.types) + 1, sizeof(Column))
        if self.columns == NULL:
            raise MemoryError
        self.count = len(self.types)
        for i in range(self.count):
            name = self.names[i]
            if not describe(&self.columns[i], self.types[i]):
                raise TypeError(f"column {name.decode()!r}: cannot read {self.types[i]}")
            self.columns[i].name = <const uint8_t*><char*>name
            is_plain = min(name, default=32) >= 32 and b'"' not in name and b"\\" not in name
            self.columns[i].name_size = len(name) if is_plain else -1

    def __dealloc__(self):
        free(self.columns)

    @staticmethod
    def supports(kind) -> bool:
        """Return whether columns of this type can be read."""
        cdef Column column
        return bool(describe(&column, kind))

    def read(self, values):
        """Read values, one a row.

        Args:
            values: Binary; may be a slice, and null is a row of nulls.

        Returns:
            The columns, and a mask of the rows that are null because they are in doubt;
            None if there is none.
        """
        cdef Py_ssize_t i
        cdef Scratch scratch
        if not isinstance(values, pa.BinaryArray):
            raise TypeError(f"needs a BinaryArray, not {type(values).__name__}")
        scratch = Scratch(self.count, values)
        for i in range(self.count):
            scratch.open(i, &self.columns[i])
        with nogil:
            self.read_all(scratch)
        for i in range(self.count):
            scratch.open_text(i, &self.columns[i])
        with nogil:
            self.copy_all(scratch)
        columns = [scratch.close(i, kind) for i, kind in enumerate(self.types)]
        if not scratch.num_doubtful:
            return columns, None
        return columns, pa.Array.from_buffers(
            pa.bool_(), scratch.rows, [None, scratch.doubtful_buffer], 0
        )

    cdef void read_all(self, Scratch scratch) noexcept nogil:
        """Read every row; those in doubt are left null and marked."""
        cdef int64_t row, at
        cdef Bytes data = scratch.data
        for row in range(scratch.rows):
            at = scratch.start + row
            if scratch.bits != NULL and not scratch.bits[at >> 3] >> (at & 7) & 1:
                continue
            if not read_object(
                self.columns, scratch.cells, self.count, self.closed,
                row, data + scratch.ends[at], data + scratch.ends[at + 1], data,
            ):
                forget_row(self.columns, scratch.cells, self.count, row)
                scratch.doubtful[row >> 3] |= <uint8_t>(1 << (row & 7))
                scratch.num_doubtful += 1

    cdef void copy_all(self, Scratch scratch) noexcept nogil:
        """Copy the text of all columns, a block of rows at a time: it is still cached then."""
        cdef int64_t first = 0, last
        cdef Py_ssize_t i
        while first < scratch.rows:
            last = min(first + BLOCK_ROWS, scratch.rows)
            for i in range(self.count):
                if self.columns[i].kind == TEXT:
                    copy_text(&scratch.cells[i], first, last, scratch.data)
            first = last
