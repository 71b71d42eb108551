/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line, the settings that it leads to, and the table of measures.
 */
#include <stdint.h>
#include <unistd.h>

#include "marks.h"
#include "settings.h"
#include "../../tests/harness.h"

static mmebm_trainer_options library_defaults(void)
{
    mmebm_trainer_options s;
    CHECK(mmebm_trainer_options_init(&s, "default") == MMEBM_OK);
    return s;
}

/* Words after the program's name, up to NULL. */
static int parse(options *o, const char *const *words)
{
    char *all[16] = {(char *)"polymnist"};
    int count = 1;
    while (*words) all[count++] = (char *)*words++;
    return options_parse(count, all, o);
}
#define PARSE(o, ...) parse(o, (const char *const[]){__VA_ARGS__, NULL})

TEST(fields_are_set_by_name)
{
    mmebm_trainer_options s = library_defaults();
    CHECK(settings_set(&s, "langevin_x.n_steps=7") == 0 && s.langevin_x.n_steps == 7);
    CHECK(settings_set(&s, "langevin_x.drift_clamp=0.5") == 0 && s.langevin_x.drift_clamp == 0.5f);
    CHECK(settings_set(&s, "langevin_z.n_steps=0") == 0 && s.langevin_z.n_steps == 0);
    CHECK(settings_set(&s, "energy.rate=3e-4") == 0 && s.energy.rate == 3e-4f);
    CHECK(settings_set(&s, "inference.clip_norm=1.5") == 0 && s.inference.clip_norm == 1.5f);
    CHECK(settings_set(&s, "stratified=1") == 0 && s.stratified == 1);
    CHECK(settings_set(&s, "guard_interval=4294967295") == 0 && s.guard_interval == UINT32_MAX);
    CHECK(settings_set(&s, "guard_latent=12") == 0 && s.guard_latent == 12.0f);
}

TEST(what_cannot_be_set_is_refused_and_changes_nothing)
{
    static const char *const bad[] = {
        "", "ema", "=1", "em=0.9", "emaa=0.9", "ema=", "ema=x", "ema=nan", "ema=inf", "ema=1e39", "ema=0.9 ", "batch=3",
        "seed=1", "langevin_x=1", "guard_tries=-1", "guard_tries=1.5", "guard_tries=4294967296", "guard_tries=1e99"};
    const mmebm_trainer_options before = library_defaults();
    mmebm_trainer_options s = before;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i)
        CHECK_MSG(settings_set(&s, bad[i]) == -1, "'%s' was taken", bad[i]);
    CHECK(memcmp(&s, &before, sizeof s) == 0);
}

TEST(the_papers_networks_train_by_the_librarys_defaults)
{
    options o;
    mmebm_trainer_options wanted = library_defaults(), s;
    double a, b;
    REQUIRE(PARSE(&o, "--train", "--preset", "polymnist") == OPTIONS_OK);
    CHECK(o.batch == 128 && o.nf == 32 && o.nef == 64 && o.stem == 16 && o.latent == 32);
    REQUIRE(settings_make(&o, 500, &s) == 0);
    wanted.schedule_steps = 500;
    CHECK(settings_difference(&s, &wanted, &a, &b) == NULL && s.batch == 128);
}

TEST(a_long_training_has_the_small_decoders_wider_encoders_and_longer_chains)
{
    options o;
    mmebm_trainer_options s;
    REQUIRE(PARSE(&o, "--train", "--preset", "polymnist-long") == OPTIONS_OK && settings_make(&o, 9, &s) == 0);
    CHECK(strcmp(settings_networks(&o), "polymnist-small") == 0 && o.batch == 128 && o.latent == 20 && o.whiten);
    CHECK(o.nf == 48 && o.likelihood_scale == 0.5);
    CHECK(s.generator.rate == 5e-4f && s.inference.rate == 2e-4f && s.langevin_x.n_steps == 5);
    CHECK(s.stratified == 1 && s.langevin_z.n_steps == 12 && s.mala_target == 0.35f);
    CHECK(s.weight_inference_revised == 0.25f && s.energy_penalty == 3e-5f);
    REQUIRE(PARSE(&o, "--train", "--preset", "polymnist-long", "--likelihood-scale", "0.7") == OPTIONS_OK);
    CHECK(o.likelihood_scale == 0.7);
}

TEST(the_command_line_goes_before_the_preset)
{
    options o;
    mmebm_trainer_options small, s;
    double a = 0, b = 0;
    REQUIRE(PARSE(&o, "--train") == OPTIONS_OK && settings_make(&o, 9, &small) == 0);
    CHECK(strcmp(o.preset, "polymnist-small") == 0 && o.nef == 32 && small.langevin_x.n_steps == 5);
    REQUIRE(PARSE(&o, "--train", "--batch", "7", "--set", "ema=0.5", "--set", "langevin_x.n_steps=2", "--set",
                  "ema=0.25") == OPTIONS_OK);
    REQUIRE(settings_make(&o, 9, &s) == 0);
    CHECK(o.batch == 7 && o.nef == 32 && s.batch == 7 && s.langevin_x.n_steps == 2 && s.ema == 0.25f);
    CHECK(strcmp(settings_difference(&small, &s, &a, &b), "langevin_x.n_steps") == 0 && a == 5 && b == 2);
}

TEST(contradictions_are_refused)
{
    options o;
    REQUIRE(PARSE(&o, "--data", "somewhere") == OPTIONS_OK);
    CHECK(!o.train && strcmp(o.model, "somewhere/model.safetensors") == 0 && strcmp(o.preset, "polymnist-small") == 0);
    CHECK(o.guidance == 2);
    REQUIRE(PARSE(&o, "--guidance", "1") == OPTIONS_OK);
    CHECK(o.guidance == 1);
    CHECK(PARSE(&o, "--steps", "3") == OPTIONS_BAD);
    CHECK(PARSE(&o, "--train", "--model", "m.safetensors") == 0 && strcmp(o.model, "m.safetensors") == 0);
    CHECK(PARSE(&o, "--train") == 0 && !*o.model);
    CHECK(PARSE(&o, "--train", "--fresh", "--resume") == OPTIONS_BAD);
    CHECK(PARSE(&o, "--train", "--preset", "mlp") == OPTIONS_BAD);
    CHECK(PARSE(&o, "--train", "--set", "nothing=1") == OPTIONS_BAD);
    CHECK(PARSE(&o, "--train", "--steps", "2.5") == OPTIONS_BAD);
    CHECK(PARSE(&o, "--train", "--measure-every") == OPTIONS_BAD);
    CHECK(PARSE(&o, "--sideways") == OPTIONS_BAD);
    CHECK(PARSE(&o, "--train", "--preset", "polymnist-energy") == OPTIONS_BAD); /* of what model? */
    CHECK(PARSE(&o, "--train", "--preset", "polymnist-energy", "--model", "m.safetensors", "--set",
                "generator.rate=0.1") == OPTIONS_BAD);
    CHECK(PARSE(&o, "--train", "--preset", "polymnist-energy", "--model", "m.safetensors") == OPTIONS_OK);
    CHECK(o.decoded == 1 && o.whiten == 0);
    CHECK(PARSE(&o, "--train") == OPTIONS_OK && o.decoded == 0 && o.whiten == 1);
}

static int tabs(const char *line)
{
    int count = 0;
    for (; *line; ++line) count += *line == '\t';
    return count;
}

TEST(measures_are_a_table)
{
    char path[] = "/tmp/polymnist-test-XXXXXX", line[4][1024] = {{0}};
    const mark at = {.step = 1000, .seconds = 60.04, .rollbacks = 1, .latent_norm = 5.5};
    measures m = {.samples = 100, .generated = {.verdict = VERDICT_COHERENT, .agreement = 0.25, .agreed_digits = 7.5},
                  .given_one = {.valid = 1, .right = 0.5}, .energies_valid = 1, .ranked_right = 0.75};
    const int file = mkstemp(path);
    FILE *table;
    int count = 0;
    REQUIRE(file >= 0 && close(file) == 0);
    CHECK(marks_append(path, &at, &m) == 0 && marks_append(path, &at, &m) == 0);
    table = fopen(path, "r");
    REQUIRE(table != NULL);
    while (count < 4 && fgets(line[count], sizeof line[0], table)) ++count;
    fclose(table);
    unlink(path);
    CHECK(count == 3 && strncmp(line[0], "step\tseconds\t", 13) == 0);
    CHECK(tabs(line[0]) == 27 && tabs(line[1]) == 27 && strcmp(line[1], line[2]) == 0);
    /* no revised samples and nothing from four were valid here */
    CHECK_MSG(strncmp(line[1], "1000\t60.0\t0.2500\t7.50\tnan\tnan\t", 30) == 0, "%s", line[1]);
    CHECK(strstr(line[1], "\t0.5000\t0.0000\tnan\tnan\t") != NULL);
    CHECK(marks_append("/nowhere/at/all.tsv", &at, &m) == -1);
}

int main(void)
{
    RUN(fields_are_set_by_name);
    RUN(what_cannot_be_set_is_refused_and_changes_nothing);
    RUN(the_papers_networks_train_by_the_librarys_defaults);
    RUN(a_long_training_has_the_small_decoders_wider_encoders_and_longer_chains);
    RUN(the_command_line_goes_before_the_preset);
    RUN(contradictions_are_refused);
    RUN(measures_are_a_table);
    return HARNESS_RESULT();
}
