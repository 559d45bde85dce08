"""Find where plain text ends: 16 bytes at a time with SSE2, else 8, never past `end`.

Plain is every byte but a quote, a backslash, a control character (below 0x20) and what is
not ASCII. Header-only: compiled into the module that cimports it.
"""
from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__) && defined(__GNUC__)
    #include <emmintrin.h>
    #endif

    static inline const uint8_t* plain_end(const uint8_t* at, const uint8_t* end) {
    #if defined(__SSE2__) && defined(__GNUC__)
        const __m128i quote = _mm_set1_epi8('"');
        const __m128i backslash = _mm_set1_epi8('\\\\');
        const __m128i space = _mm_set1_epi8(0x20);
        while (end - at >= 16) {
            __m128i text = _mm_loadu_si128((const __m128i*)at);
            /* As signed bytes, what is not ASCII is below a space too. */
            __m128i stops = _mm_or_si128(
                _mm_cmplt_epi8(text, space),
                _mm_or_si128(_mm_cmpeq_epi8(text, quote), _mm_cmpeq_epi8(text, backslash)));
            unsigned int mask = (unsigned int)_mm_movemask_epi8(stops);
            if (mask)
                return at + __builtin_ctz(mask);
            at += 16;
        }
    #endif
        const uint64_t ones = UINT64_C(0x0101010101010101);
        while (end - at >= 8) {
            uint64_t text, quotes, backslashes, stops;
            memcpy(&text, at, 8);
            quotes = text ^ ones * '"';
            backslashes = text ^ ones * '\\\\';
            /* A borrow can mark a byte too many, but only beside one that is marked rightly. */
            stops = text | ((quotes - ones) & ~quotes) | ((backslashes - ones) & ~backslashes)
                | ((text - ones * 0x20) & ~text);
            if (stops & ones * 0x80)
                break;
            at += 8;
        }
        while (at < end && *at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\\\')
            at++;
        return at;
    }
    """
    const uint8_t* plain_end(const uint8_t* at, const uint8_t* end) noexcept nogil
