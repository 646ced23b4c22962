/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside the Jinja interpreter (the files beside this one): values, syntax tree, run state.
 *
 * All memory of a template, and all memory of one rendering, lies in one bump allocator each and
 * dies with it; nothing is freed one by one, so no function here has clean-up to do. Values are
 * small structs passed by value. */
#ifndef KAPPA_PYTHON_JINJA_CORE_H
#define KAPPA_PYTHON_JINJA_CORE_H

#include "base/arena.h"
#include "python/jinja/jinja.h"

#include <string.h>

/* Expects a variable `J` in scope. */
#define J_TRY(call)                                                                                \
  do {                                                                                             \
    ka_status try_ = (call);                                                                       \
    if (try_.code != KA_OK) return ka_trace(J->ctx, try_, __FILE__, __LINE__);                     \
  } while (0)

/* --- values ----------------------------------------------------------------------------------- */

enum jv_type {
  JV_MISSING, /* an argument that was not given; never seen by templates */
  JV_UNDEF,
  JV_NONE,
  JV_BOOL,
  JV_INT,
  JV_FLOAT,
  JV_STR,
  JV_LIST,
  JV_TUPLE,
  JV_DICT,
  JV_VIEW, /* dict.items(), .keys(), .values() */
  JV_ITER, /* a generator: consumed by iterating */
  JV_RANGE,
  JV_NS,
  JV_MACRO,
  JV_GLOBAL, /* range, dict, ... */
  JV_METHOD, /* a method with its object */
  JV_LOOP,
  JV_CYCLER,
  JV_JOINER,
};

struct jv {
  enum jv_type t;
  union {
    bool b;
    int64_t i;
    double f;
    const char *undef; /* what was undefined, for messages */
    struct jstr *s;
    struct jseq *q;  /* LIST TUPLE VIEW ITER CYCLER */
    struct jdict *d; /* DICT NS */
    struct jrange *r;
    struct jmacro *m;
    const struct jfunc *g;
    struct jmethod *bound;
    struct jloop *loop;
    struct jjoiner *joiner;
  };
};

struct jstr {
  const char *p; /* UTF-8, not NUL-terminated in general */
  size_t n;
  int64_t n_chars; /* code points, -1 = not counted yet */
  bool markup;     /* the result of |escape or |safe */
};

struct jseq {
  struct jv *v;
  int64_t n, cap;
  int64_t pos;      /* ITER: next item; CYCLER: current */
  const char *kind; /* VIEW: "dict_items"; TUPLE: "group" for groupby's pairs */
};

struct jpair {
  struct jv k, v;
};
struct jdict {
  struct jpair *p; /* insertion order */
  int64_t n, cap;
};

struct jrange {
  int64_t start, stop, step, n;
};

struct jmethod {
  struct jv self;
  const struct jfunc *f;
};

struct jjoiner {
  struct jv sep;
  bool used;
};

/* --- the syntax tree -------------------------------------------------------------------------- */

enum jkind {
  /* expressions */
  JN_CONST,
  JN_NAME,    /* id */
  JN_LIST,    /* list */
  JN_TUPLE,   /* list */
  JN_DICT,    /* list of JN_PAIR */
  JN_PAIR,    /* a: key, b: value */
  JN_GETATTR, /* a, value: the name */
  JN_NSREF,   /* id, value: the attribute; assignment targets only */
  JN_GETITEM, /* a, b */
  JN_SLICE,   /* a[b:c:d] */
  JN_CALL,    /* a, list of JN_ARG */
  JN_ARG,     /* a; op: enum jarg; value: keyword */
  JN_FILTER,  /* a (NULL: the captured block), func, list of JN_ARG, value: name */
  JN_TEST,    /* the same */
  JN_NOT,     /* a */
  JN_NEG,     /* a */
  JN_POS,     /* a */
  JN_AND,     /* a, b */
  JN_OR,      /* a, b */
  JN_BIN,     /* a op b */
  JN_CONCAT,  /* list */
  JN_COMPARE, /* a, list of JN_OPERAND */
  JN_OPERAND, /* op, a */
  JN_COND,    /* b if a else c (c may be NULL) */
  /* statements */
  JN_DATA,      /* value */
  JN_PRINT,     /* a */
  JN_IF,        /* a, list: body, b: the else statements (a list by next) */
  JN_FOR,       /* a: target, b: iterable, c: filter or NULL, list: body, d: else; op: recursive */
  JN_SET,       /* a: target, b */
  JN_SETBLOCK,  /* a: target, b: filters or NULL, list: body */
  JN_MACRO,     /* id, params, list: body; op: enum jmacro_flags */
  JN_CALLBLOCK, /* b: the call, c: JN_MACRO of the body */
  JN_FILTERBLOCK, /* b: filters, list: body */
  JN_WITH,        /* params: JN_PAIR list, list: body */
  JN_GENERATION,  /* list: body */
  JN_BREAK,
  JN_CONTINUE,
  JN_PARAM, /* id, a: default or NULL */
};

enum jarg { JARG_POS, JARG_KEYWORD, JARG_STAR, JARG_STAR2 };
enum jmacro_flags { JM_CALLER = 1, JM_KWARGS = 2, JM_VARARGS = 4 };

/* Operators are written as their characters. */
#define JOP(a, b) ((a) | (b) << 8)
enum jop {
  JOP_ADD = '+',
  JOP_SUB = '-',
  JOP_MUL = '*',
  JOP_DIV = '/',
  JOP_MOD = '%',
  JOP_FLOORDIV = JOP('/', '/'),
  JOP_POW = JOP('*', '*'),
  JOP_EQ = JOP('=', '='),
  JOP_NE = JOP('!', '='),
  JOP_LT = '<',
  JOP_GT = '>',
  JOP_LE = JOP('<', '='),
  JOP_GE = JOP('>', '='),
  JOP_IN = JOP('i', 'n'),
  JOP_NOTIN = JOP('n', 'i'),
};

struct jnode {
  enum jkind kind;
  int op;
  uint32_t at; /* byte offset into the source */
  int id;      /* of a name */
  struct jv value;
  const struct jfunc *func;
  struct jnode *a, *b, *c, *d;
  struct jnode *list, *params;
  struct jnode *next; /* in the list that this node is in */
};

/* --- memory and run state --------------------------------------------------------------------- */

struct jmem {
  struct ka_arena arena;
  char *p;
  size_t left, used_bytes, limit_bytes;
};

struct ka_jinja {
  struct ka_ctx *ctx; /* while parsing */
  enum ka_jinja_dialect dialect;
  struct jmem mem;
  const char *name;
  char *src; /* newlines normalised */
  size_t n_src;
  const char **names; /* by id */
  int64_t n_names, names_cap;
  struct jnode *body;
  bool has_generation;
};

/* One rendering (or the run of a constant function while parsing). */
struct jrun {
  struct ka_ctx *ctx;
  const struct ka_jinja *t;
  struct jmem mem;
  struct jv *globals; /* by name id: the variables and the built-in functions */
  struct jbuf *out;
  struct jv captured; /* what a filter block's filters start from */
  bool may_be_undef;  /* TASK: the expression evaluated next may be undefined */
  struct ka_jinja_limits limits;
  const struct tm *now;
  struct ka_jinja_spans *spans;
  size_t n_generating; /* inside how many generation blocks */
  int n_captures;      /* 0: out is the output itself */
  int64_t steps, depth;
  uint32_t at; /* where we are, for messages */
};

/* Growing bytes in the run's memory. */
struct jbuf {
  char *p;
  size_t n, cap;
};

struct jvar {
  int id;
  struct jv v;
};
/* Names of one block; looked up innermost first, then the globals. */
struct jscope {
  struct jscope *parent;
  struct jvar *vars;
  int64_t n, cap;
};

struct jmacro {
  const struct jnode *node;
  struct jscope *closure;
};

struct jloop {
  struct jv iterable; /* LIST snapshot */
  int64_t next;       /* item of the snapshot to look at next */
  const struct jnode *node;
  struct jscope *closure;
  struct jv before, current, after; /* after: MISSING until peeked at */
  bool drained;                     /* after is known to be absent */
  struct jv changed;
  int64_t index0, depth0, length; /* length -1: not known yet */
};

struct jkw {
  struct jstr *k;
  struct jv v;
};
struct jargs {
  struct jv *pos;
  struct jkw *kw;
  int64_t n_pos, n_kw, pos_cap, kw_cap;
};

/* A filter, test, method or global function. params: names separated by spaces, the first
 * n_required without a default; a leading "/" makes them positional only; NULL: the function takes
 * args as they are. a[] holds the bound values, MISSING where not given. fn NULL: known, but not
 * supported here. */
enum { J_MAX_PARAMS = 5 };
struct jfunc {
  const char *name;
  ka_status (*fn)(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,
                  const struct jargs *args);
  const char *params;
  int n_required;
};
typedef ka_status j_function(struct jrun *J, struct jv *out, struct jv self, const struct jv *a,
                             const struct jargs *args);

/* --- mem.c: memory, messages, buffers --------------------------------------------------------- */

ka_status jm_alloc(struct ka_ctx *ctx, struct jmem *m, void **out,
                   size_t n); /* zeroed, 16-aligned */
ka_status j_alloc(struct jrun *J, void **out, size_t n);
/* Room for one more element in an array of the run. */
ka_status j_push(struct jrun *J, void **items, int64_t n, int64_t *cap, size_t size);
ka_status j_steps(struct jrun *J, size_t n_bytes); /* charges n_bytes / 64 steps */
ka_status j_enter(struct jrun *J);                 /* depth + 1, one step; pair with j_leave */
static inline void j_leave(struct jrun *J) { J->depth--; }
/* "NAME:LINE:COLUMN: message" with KA_E_INPUT, at J->at. */
ka_status j_fail(struct jrun *J, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
ka_status j_fail_code(struct jrun *J, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* An error unless n more bytes may stand in a text: for what is put together in many small
 * steps. */
ka_status j_fits(struct jrun *J, int64_t n);
ka_status jb_put(struct jrun *J, struct jbuf *b, const char *p, size_t n);
ka_status jb_puts(struct jrun *J, struct jbuf *b, const char *text);
ka_status jb_cp(struct jrun *J, struct jbuf *b, uint32_t cp);
ka_status jb_printf(struct jrun *J, struct jbuf *b, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* --- parse.c, expr.c, lex.c ------------------------------------------------------------------ */

enum jtok_type { /* below 0x10000: operators by their characters */
                 JT_EOF = 0x10000,
                 JT_DATA,
                 JT_PRINT_BEGIN,
                 JT_PRINT_END,
                 JT_BLOCK_BEGIN,
                 JT_BLOCK_END,
                 JT_NAME,
                 JT_STRING,
                 JT_INT,
                 JT_FLOAT,
};
struct jtok {
  int type;
  uint32_t at;
  const char *s; /* NAME, STRING (unescaped), DATA */
  size_t n;
  int64_t i;
  double f;
};
struct jparser {
  struct ka_ctx *ctx;
  struct ka_jinja *t;
  struct jtok *tok, *toks; /* tok: the current one */
  int64_t n_toks, toks_cap;
  int depth, n_loops, macro_flags;
  int soft;                    /* inside an if: unknown filters and tests fail only when run */
  const struct jnode *unknown; /* the first that is run for certain */
  int *name_slots;             /* hash table of ids + 1 */
  int64_t n_slots;
};
ka_status jp_fail(struct jparser *J, uint32_t at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
ka_status jp_tokens(struct jparser *J);
ka_status jp_node(struct jparser *J, struct jnode **out, enum jkind kind, uint32_t at);
ka_status jp_intern(struct jparser *J, int *id, const char *s, size_t n);
ka_status jp_str(struct jparser *J, struct jv *out, const char *s, size_t n);
ka_status jp_expect(struct jparser *J, int type);
ka_status jp_enter(struct jparser *J);
bool jp_is_name(const struct jparser *J, const char *word);
bool jp_skip_name(struct jparser *J, const char *word);
bool jp_skip(struct jparser *J, int type);
ka_status jp_expr(struct jparser *J, struct jnode **out, bool with_cond);
/* One expression, or a tuple of several; end: a name that ends it besides the usual ends. */
ka_status jp_tuple(struct jparser *J, struct jnode **out, bool with_cond, const char *end);
ka_status jp_target(struct jparser *J, struct jnode **out, bool with_ns, const char *end);
ka_status jp_filters(struct jparser *J, struct jnode **node, bool start_inline);
const char *jp_describe(const struct jtok *k, char buf[48]);

/* --- value.c ---------------------------------------------------------------------------------- */

static inline struct jv jv_none(void) { return (struct jv){.t = JV_NONE}; }
static inline struct jv jv_bool(bool b) { return (struct jv){.t = JV_BOOL, .b = b}; }
static inline struct jv jv_int(int64_t i) { return (struct jv){.t = JV_INT, .i = i}; }
static inline struct jv jv_float(double f) { return (struct jv){.t = JV_FLOAT, .f = f}; }
static inline struct jv jv_undef(const char *what) {
  return (struct jv){.t = JV_UNDEF, .undef = what};
}
static inline bool jv_is_number(struct jv v) {
  return v.t == JV_BOOL || v.t == JV_INT || v.t == JV_FLOAT;
}
static inline bool jv_is_int(struct jv v) { return v.t == JV_BOOL || v.t == JV_INT; }
static inline int64_t jv_as_int(struct jv v) { return v.t == JV_BOOL ? v.b : v.i; }
static inline double jv_as_float(struct jv v) {
  return v.t == JV_FLOAT ? v.f : (double)jv_as_int(v);
}
const char *jv_type_name(struct jv v); /* Python's: "str", "list", ... */
ka_status j_str(struct jrun *J, struct jv *out, const char *p, size_t n);      /* copies */
ka_status j_str_view(struct jrun *J, struct jv *out, const char *p, size_t n); /* borrows */
static inline ka_status j_str_buf(struct jrun *J, struct jv *out, const struct jbuf *b) {
  return j_str_view(J, out, b->p, b->n);
}
int64_t j_n_chars(struct jstr *s);
/* Byte offset of character i (0 <= i <= n_chars). */
size_t j_char_offset(struct jstr *s, int64_t i);
ka_status j_seq(struct jrun *J, struct jv *out, enum jv_type type, int64_t cap);
ka_status j_seq_add(struct jrun *J, struct jv seq, struct jv item);
ka_status j_tuple2(struct jrun *J, struct jv *out, struct jv a, struct jv b);
ka_status j_dict(struct jrun *J, struct jv *out);
/* Finds the pair with an equal key (NULL: none). TypeError for keys that cannot be hashed. */
ka_status j_dict_find(struct jrun *J, struct jdict *d, struct jv key, struct jpair **out);
ka_status j_dict_set(struct jrun *J, struct jdict *d, struct jv key, struct jv value);
struct jpair *j_dict_str(struct jdict *d, const char *key, size_t n);
ka_status j_hashable(struct jrun *J, struct jv v);
bool j_truth(struct jv v);
ka_status j_equal(struct jrun *J, struct jv a, struct jv b, bool *out);
/* op: < > <= >= ; TypeError where Python has it. */
ka_status j_order(struct jrun *J, int op, struct jv a, struct jv b, bool *out);
ka_status j_contains(struct jrun *J, struct jv item, struct jv in, bool *out);
ka_status j_len(struct jrun *J, struct jv v, int64_t *out);
bool j_iterable(struct jv v);
/* All items as a LIST (a new one unless v is a list or tuple); consumes an ITER. */
ka_status j_items(struct jrun *J, struct jv v, struct jv *out);
/* op on two values with Python's rules. */
ka_status j_binary(struct jrun *J, int op, struct jv a, struct jv b, struct jv *out);
ka_status j_from_json(struct jrun *J, const json_t *j, struct jv *out);

/* --- text.c: values as text ------------------------------------------------------------------ */

ka_status j_put_str(struct jrun *J, struct jbuf *b, struct jv v);  /* str(v) */
ka_status j_put_repr(struct jrun *J, struct jbuf *b, struct jv v); /* repr(v) */
ka_status j_to_str(struct jrun *J, struct jv v, struct jv *out);   /* strings as they are */
void j_float_repr(double f, char buf[32]);
ka_status j_put_json(struct jrun *J, struct jbuf *b, struct jv v, const struct jv *a);
ka_status j_escape(struct jrun *J, struct jv v, struct jv *out); /* &amp; &lt; ... , markup */
/* Python's "..." % args, and "...".format(*args). */
ka_status j_percent(struct jrun *J, struct jv fmt, struct jv args, struct jv *out);
ka_status j_format(struct jrun *J, struct jv fmt, const struct jargs *args, struct jv *out);

/* --- unicode.c ------------------------------------------------------------------------------- */

bool ju_space(uint32_t cp);     /* str.isspace, and \s */
bool ju_printable(uint32_t cp); /* str.isprintable */
bool ju_word(uint32_t cp);      /* \w */
enum ju_case { JU_UPPER, JU_LOWER, JU_TITLE, JU_CAPITALIZE, JU_SWAPCASE };
ka_status ju_case(struct jrun *J, enum ju_case how, const char *p, size_t n, struct jbuf *out);
/* str.isX by name: 'u'pper 'l'ower 't'itle 'a'lpha alnu'm' 'd'igit decim'c'al 'n'umeric 's'pace */
bool ju_is(char what, const char *p, size_t n);
/* Ends of the text without leading / trailing white space, or without the characters of set. */
void ju_strip(const char **p, size_t *n, const struct jstr *set, bool left, bool right);

/* --- call.c, eval.c, exec.c ------------------------------------------------------------------ */

ka_status j_eval(struct jrun *J, const struct jnode *n, struct jscope *sc, struct jv *out);
/* TASK: undefined, and not by an inline if without an else. */
bool j_forbidden(const struct jrun *J, struct jv v);
ka_status j_args(struct jrun *J, const struct jnode *list, struct jscope *sc, struct jargs *out);
ka_status j_call(struct jrun *J, struct jv callee, const struct jargs *args, struct jv *out);
ka_status j_call_func(struct jrun *J, const struct jfunc *f, struct jv self,
                      const struct jargs *args, struct jv *out);
ka_status j_getattr(struct jrun *J, struct jv obj, const struct jstr *name, struct jv *out);
ka_status j_getitem(struct jrun *J, struct jv obj, struct jv key, struct jv *out);
/* "a.b.0" as Jinja's attribute arguments; the parts are looked up by j_getitem. */
ka_status j_getpath(struct jrun *J, struct jv obj, struct jv path, struct jv *out);
ka_status j_slice(struct jrun *J, struct jv obj, const struct jv bounds[3], struct jv *out);
ka_status j_scope(struct jrun *J, struct jscope *parent, struct jscope **out);
ka_status j_scope_set(struct jrun *J, struct jscope *sc, int id, struct jv v);
ka_status j_macro_call(struct jrun *J, struct jmacro *m, const struct jargs *args, struct jv *out);
ka_status j_loop_attr(struct jrun *J, struct jloop *l, const char *name, struct jv *out);
ka_status j_loop_call(struct jrun *J, struct jloop *l, struct jv iterable, struct jv *out);

/* --- tables ----------------------------------------------------------------------------------- */

/* NULL when there is none of that name. */
const struct jfunc *j_find_filter(const struct ka_jinja *t, const char *name, size_t n);
const struct jfunc *j_find_test(const char *name, size_t n);               /* test.c */
const struct jfunc *j_find_global(const char *name);                       /* global.c */
const struct jfunc *j_find_method(struct jv obj, const struct jstr *name); /* method.c */
const struct jfunc *j_find_loop_method(const char *name);
/* ended by a NULL name; those of tasks come first there */
extern const struct jfunc j_seq_filters[], j_text_filters[], j_task_filters[];
const struct jfunc *j_find_in(const struct jfunc *table, const char *name, size_t n);

#endif
