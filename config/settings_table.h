/*
 * Purpose: one row per setting: the only place that knows its name, type, range, default and help.
 * Owns:    nothing; all static. Threads: any. Errors: none. Limits: none.
 */
#ifndef PHI_CONFIG_SETTINGS_TABLE_H
#define PHI_CONFIG_SETTINGS_TABLE_H

#include "config/settings.h"

#include <stddef.h>
#include <stdint.h>

typedef enum phi_setting_type {
    PHI_SETTING_TEXT,
    PHI_SETTING_CHOICE, /* one of `choices` */
    PHI_SETTING_NUMBER,
    PHI_SETTING_BYTES,   /* 64G */
    PHI_SETTING_SECONDS, /* a number */
} phi_setting_type;

typedef struct phi_setting_row {
    const char *name;
    phi_setting_type type;
    size_t offset; /* in phi_settings: char * or uint64_t */
    uint64_t min;
    uint64_t max;
    const char *fallback; /* the default as written in a file; NULL: see phi_settings_data_dir */
    const char *value;    /* what stands for the value in --help */
    const char *choices;  /* CHOICE: separated by blanks */
    const char *help;
    /* TEXT: NULL when good, else what would be right. */
    const char *(*check)(const char *text);
} phi_setting_row;

extern const phi_setting_row phi_setting_rows[];
extern const size_t phi_setting_row_count;

#endif
