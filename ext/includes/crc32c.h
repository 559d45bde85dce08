/* CRC-32C (Castagnoli), of Kafka's record batches and of spill frames.
 *
 * x86 processors have an instruction that takes 8 bytes, but its result is ready
 * only after three cycles. So three streams run side by side, and are joined by
 *
 *     crc(A B) = crc(A) * x^(8 * size of B)  +  crc(B)        in GF(2)[x] mod P
 *
 * where one carry-less multiplication and one more CRC instruction do the product:
 * the first yields a * k * x (its operands are bit-reversed), the second multiplies
 * by x^32, so that k = x^(8 * size - 33). Elsewhere: eight tables, 8 bytes a step.
 *
 * Sources: Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32
 * Instruction", Intel 2011; Kounavis and Berry 2005 (slicing by 8).
 */
#ifndef FLOWGUARD_CRC32C_H
#define FLOWGUARD_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CRC32C_POLYNOMIAL 0x82F63B78u /* bit-reversed, as everything here */
#define CRC32C_ONE 0x80000000u        /* x^0 */

static uint32_t crc32c_tables[8][256];

/* Bytes of one stream, and what moves a CRC past one or two such streams. */
typedef struct {
    size_t size;
    uint32_t past_one;
    uint32_t past_two;
} crc32c_stripe;

/* Long stripes amortise the join; short ones leave less to the slow tail. */
static crc32c_stripe crc32c_long = {2048, 0, 0};
static crc32c_stripe crc32c_short = {256, 0, 0};
static int crc32c_has_instruction = 0;

static uint32_t crc32c_times_x(uint32_t polynomial) {
    return (polynomial >> 1) ^ (polynomial & 1 ? CRC32C_POLYNOMIAL : 0);
}

static uint32_t crc32c_power_of_x(size_t exponent) {
    uint32_t power = CRC32C_ONE;
    while (exponent-- > 0) {
        power = crc32c_times_x(power);
    }
    return power;
}

static void crc32c_prepare_stripe(crc32c_stripe *stripe) {
    stripe->past_one = crc32c_power_of_x(8 * stripe->size - 33);
    stripe->past_two = crc32c_power_of_x(16 * stripe->size - 33);
}

static void crc32c_prepare_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc32c_times_x(crc);
        }
        crc32c_tables[0][byte] = crc;
    }
    for (int table = 1; table < 8; table++) {
        for (int byte = 0; byte < 256; byte++) {
            uint32_t crc = crc32c_tables[table - 1][byte];
            crc32c_tables[table][byte] = (crc >> 8) ^ crc32c_tables[0][crc & 0xFF];
        }
    }
}

static uint32_t crc32c_step_portable(uint32_t crc, uint8_t byte) {
    return (crc >> 8) ^ crc32c_tables[0][(crc ^ byte) & 0xFF];
}

static uint32_t crc32c_run_portable(uint32_t crc, const uint8_t *at, size_t size) {
    for (; size >= 8; at += 8, size -= 8) {
        uint32_t low = crc ^ (at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
                              (uint32_t)at[3] << 24);
        crc = crc32c_tables[7][low & 0xFF] ^ crc32c_tables[6][low >> 8 & 0xFF] ^
              crc32c_tables[5][low >> 16 & 0xFF] ^ crc32c_tables[4][low >> 24] ^
              crc32c_tables[3][at[4]] ^ crc32c_tables[2][at[5]] ^
              crc32c_tables[1][at[6]] ^ crc32c_tables[0][at[7]];
    }
    for (; size > 0; at++, size--) {
        crc = crc32c_step_portable(crc, *at);
    }
    return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define CRC32C_TARGET __attribute__((target("sse4.2,pclmul")))

CRC32C_TARGET static inline uint64_t crc32c_step(uint64_t crc, const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return _mm_crc32_u64(crc, word);
}

CRC32C_TARGET static inline uint32_t crc32c_move(uint64_t crc, uint32_t past) {
    __m128i product = _mm_clmulepi64_si128(
        _mm_cvtsi64_si128((long long)crc), _mm_cvtsi64_si128((long long)past), 0);
    return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

CRC32C_TARGET static inline uint32_t crc32c_run_three(
    uint32_t crc, const uint8_t *at, const crc32c_stripe *stripe) {
    uint64_t first = crc, second = 0, third = 0;
    for (size_t done = 0; done < stripe->size; done += 8) {
        first = crc32c_step(first, at + done);
        second = crc32c_step(second, at + stripe->size + done);
        third = crc32c_step(third, at + 2 * stripe->size + done);
    }
    return crc32c_move(first, stripe->past_two) ^
           crc32c_move(second, stripe->past_one) ^ (uint32_t)third;
}

CRC32C_TARGET static uint32_t crc32c_run_instruction(
    uint32_t crc, const uint8_t *at, size_t size) {
    const crc32c_stripe *stripes[] = {&crc32c_long, &crc32c_short};
    for (int choice = 0; choice < 2; choice++) {
        size_t turn = 3 * stripes[choice]->size;
        for (; size >= turn; at += turn, size -= turn) {
            crc = crc32c_run_three(crc, at, stripes[choice]);
        }
    }
    for (; size >= 8; at += 8, size -= 8) {
        crc = (uint32_t)crc32c_step(crc, at);
    }
    for (; size > 0; at++, size--) {
        crc = _mm_crc32_u8(crc, *at);
    }
    return crc;
}

static int crc32c_find_instruction(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}
#else
static uint32_t crc32c_run_instruction(uint32_t crc, const uint8_t *at, size_t size) {
    return crc32c_run_portable(crc, at, size);
}

static int crc32c_find_instruction(void) { return 0; }
#endif

/* Call once before the rest, when the module is imported. */
static void crc32c_prepare(void) {
    crc32c_prepare_tables();
    crc32c_prepare_stripe(&crc32c_long);
    crc32c_prepare_stripe(&crc32c_short);
    crc32c_has_instruction = crc32c_find_instruction();
}

static uint32_t crc32c_of_portable(const uint8_t *at, size_t size) {
    return ~crc32c_run_portable(~0u, at, size);
}

/* The CRC of what came before, 0 for nothing, and these bytes behind it. */
static uint32_t crc32c_extend(uint32_t crc, const uint8_t *at, size_t size) {
    return crc32c_has_instruction ? ~crc32c_run_instruction(~crc, at, size)
                                  : ~crc32c_run_portable(~crc, at, size);
}

static uint32_t crc32c_of(const uint8_t *at, size_t size) {
    return crc32c_extend(0, at, size);
}

#endif
