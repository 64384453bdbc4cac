//go:build unix

package libraries

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/viper"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

func fileRows() []row {
	return []row{
		logRow("log/slog: a file opened in an init to append", func() (*slog.Logger, error) {
			return atInit, nil
		}),
		createdLogRow(), zapRow(), bufferedZapRow(), fsnotifyRow(), viperRow(),
		sqliteRow(), readOnlySqliteRow(), memorySqliteRow(),
		randomSqliteRow(), boltRow(),
	}
}

// errSilent is the error if nothing comes.
var errSilent = errors.New("silent")

// await waits for a value. Without the fix none may come, so the wait is short.
func await[T any](ctx context.Context, c <-chan T) error {
	bound := 200 * time.Millisecond
	if fixed() {
		bound = hang
	}
	select {
	case <-c:
		return nil
	case <-time.After(bound):
		return errSilent
	case <-ctx.Done():
		return ctx.Err()
	}
}

// atInit is a logger as programs have it: made before main, with a file that is opened
// to append.
var atInit = func() *slog.Logger {
	if os.Getenv(dirEnv) == "" {
		return slog.Default() // the test itself
	}
	file, err := openLog("log")
	if err != nil {
		panic(err)
	}
	return slog.New(slog.NewTextHandler(file, nil))
}()

func openLog(name string) (*os.File, error) {
	return os.OpenFile(path(name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// checkLog looks for one line with each of the texts in a log.
func checkLog(name string, texts ...string) error {
	b, err := os.ReadFile(path(name))
	for _, text := range texts {
		switch n := strings.Count(string(b), text); n {
		case 0:
			return errors.New("a line is lost")
		case 1:
		default:
			return errors.New("a line is written more than once")
		}
	}
	return err
}

// ownLine is a text that no other process logs.
func ownLine() string { return fmt.Sprint("line of ", os.Getpid(), ".") }

func logRow(name string, open func() (*slog.Logger, error)) row {
	var logger *slog.Logger
	return row{
		library: name, outcome: works,
		warmUp: func() (err error) {
			if logger, err = open(); err != nil {
				return err
			}
			logger.Info("line of the warm-up")
			return nil
		},
		use: func(context.Context) (string, error) {
			logger.Info(ownLine())
			return "", checkLog("log", "line of the warm-up", ownLine())
		},
	}
}

func createdLogRow() row {
	r := logRow("log/slog: a file of 'os.Create'", func() (*slog.Logger, error) {
		file, err := os.Create(path("log"))
		return slog.New(slog.NewTextHandler(file, nil)), err
	})
	appending := logRow("", func() (*slog.Logger, error) {
		file, err := openLog("log")
		return slog.New(slog.NewTextHandler(file, nil)), err
	})
	use := r.use
	r.use = func(ctx context.Context) (string, error) {
		if fixed() {
			return appending.use(ctx)
		}
		return use(ctx)
	}
	r.outcome, r.named = "a line is lost", "/log"
	r.finding = "lines are lost, because it is open to read, too; the logger has no error"
	r.fix = fix{line: "'os.OpenFile' with 'os.O_APPEND' and 'os.O_WRONLY'",
		warmUp: appending.warmUp}
	return r
}

func zapRow() row {
	var logger *zap.Logger
	return row{
		library: "go.uber.org/zap: a file", module: "go.uber.org/zap", outcome: works,
		warmUp: func() (err error) {
			cfg := zap.NewProductionConfig()
			cfg.OutputPaths = []string{path("zap.log")}
			if logger, err = cfg.Build(); err != nil {
				return err
			}
			logger.Info("line of the warm-up")
			return nil
		},
		use: func(context.Context) (string, error) {
			logger.Info(ownLine())
			return "", checkLog("zap.log", "line of the warm-up", ownLine())
		},
	}
}

func bufferedZapRow() row {
	var logger *zap.Logger
	warmUp := func() error {
		file, err := openLog("buffered.log")
		if err != nil {
			return err
		}
		buffer := &zapcore.BufferedWriteSyncer{WS: file, FlushInterval: time.Hour}
		logger = zap.New(zapcore.NewCore(
			zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), buffer, zap.InfoLevel))
		logger.Info("line of the warm-up")
		return nil
	}
	return row{
		library: "go.uber.org/zap: a BufferedWriteSyncer", module: "go.uber.org/zap",
		outcome: "a line is written more than once",
		finding: "each child writes the lines that the warm-up has left in the buffer",
		warmUp:  warmUp,
		fix: fix{line: "'logger.Sync()' at the end of the warm-up", warmUp: func() error {
			return errors.Join(warmUp(), logger.Sync())
		}},
		use: func(context.Context) (string, error) {
			logger.Info(ownLine())
			if err := logger.Sync(); err != nil {
				return "", err
			}
			// the lines of the warm-up are there as often as children have come here
			b, err := os.ReadFile(path("buffered.log"))
			if n := strings.Count(string(b), "line of the warm-up"); err == nil && !fixed() && n < 2 {
				return "", waitForSecond(path("buffered.log"))
			}
			return "", errors.Join(err, checkLog("buffered.log", "line of the warm-up", ownLine()))
		},
	}
}

// waitForSecond waits for the line of another child.
func waitForSecond(file string) error {
	for deadline := time.Now().Add(hang / 2); time.Now().Before(deadline); {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.Count(string(b), "line of the warm-up") > 1 {
			return errors.New("a line is written more than once")
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

func fsnotifyRow() row {
	var watcher *fsnotify.Watcher
	start := func() (err error) {
		if watcher, err = fsnotify.NewWatcher(); err != nil {
			return err
		}
		return watcher.Add(path(""))
	}
	return row{
		library: "fsnotify/fsnotify", module: "github.com/fsnotify/fsnotify",
		outcome: "silent", warmUp: start,
		fix: fix{line: "'NewWatcher' and 'Add' in 'AfterFork'", afterFork: start},
		use: func(ctx context.Context) (string, error) {
			if err := os.WriteFile(path("new"), nil, 0o600); err != nil {
				return "", err
			}
			select {
			case err := <-watcher.Errors:
				return "", err
			default:
			}
			return "", await(ctx, watcher.Events)
		},
	}
}

func viperRow() row {
	var v *viper.Viper
	changed := make(chan struct{}, 100)
	return row{
		library: "spf13/viper: WatchConfig", module: "github.com/spf13/viper",
		outcome: "silent",
		finding: "keeps its values; changes are silent",
		warmUp: func() error {
			if err := os.WriteFile(path("config.yaml"), []byte("n: 1\n"), 0o600); err != nil {
				return err
			}
			v = viper.New()
			v.SetConfigFile(path("config.yaml"))
			v.OnConfigChange(func(fsnotify.Event) { changed <- struct{}{} })
			v.WatchConfig()
			return v.ReadInConfig()
		},
		fix: fix{line: "'viper.WatchConfig()' in 'AfterFork'", afterFork: func() error {
			v.WatchConfig()
			return nil
		}},
		use: func(ctx context.Context) (string, error) {
			if n := v.GetInt("n"); n < 1 {
				return "", fmt.Errorf("n: %d", n)
			}
			// the other children must not read a part of the file
			fresh := path(fmt.Sprint(os.Getpid(), ".yaml"))
			err := os.WriteFile(fresh, []byte("n: 2\n"), 0o600)
			if err == nil {
				err = os.Rename(fresh, path("config.yaml"))
			}
			if err != nil {
				return "", err
			}
			return "", await(ctx, changed)
		},
	}
}

// openDatabase opens a database with a table of one row.
func openDatabase(name string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // each connection to :memory: is a database of its own
	_, err = db.Exec("create table if not exists t (n int); insert into t values (1)")
	return db, err
}

// useDatabase reads the row and adds another one.
func useDatabase(ctx context.Context, db *sql.DB) error {
	if err := checkDatabase(ctx, db); err != nil {
		return err
	}
	_, err := db.ExecContext(ctx, "insert into t values (2)")
	return err
}

// checkDatabase reads the row.
func checkDatabase(ctx context.Context, db *sql.DB) error {
	n := 0
	err := db.QueryRowContext(ctx, "select min(n) from t").Scan(&n)
	if err == nil && n != 1 {
		err = fmt.Errorf("another row: %d", n)
	}
	return err
}

func sqliteRow() row {
	var db *sql.DB
	return row{
		library: "modernc.org/sqlite: a file, with database/sql", module: "modernc.org/sqlite",
		outcome: `disk I/O error \(266\)`, named: "/db",
		finding: "an error: 'disk I/O error (266)'",
		warmUp: func() (err error) {
			db, err = openDatabase(path("db"))
			return err
		},
		fix: fix{line: "'db, err = sql.Open(...)' in 'AfterFork'", afterFork: func() (err error) {
			db, err = sql.Open("sqlite", "file:"+path("db")+"?_pragma=busy_timeout(30000)")
			return err
		}},
		use: func(ctx context.Context) (string, error) { return "", useDatabase(ctx, db) },
	}
}

func readOnlySqliteRow() row {
	var db *sql.DB
	return row{
		library: "modernc.org/sqlite: a file with mode=ro", module: "modernc.org/sqlite",
		outcome: works,
		warmUp: func() error {
			first, err := openDatabase(path("db"))
			if err != nil {
				return err
			}
			if err := first.Close(); err != nil {
				return err
			}
			if db, err = sql.Open("sqlite", "file:"+path("db")+"?mode=ro"); err != nil {
				return err
			}
			return checkDatabase(context.Background(), db)
		},
		use: func(ctx context.Context) (string, error) { return "", checkDatabase(ctx, db) },
	}
}

func memorySqliteRow() row {
	var db *sql.DB
	return row{
		library: "modernc.org/sqlite: in memory", module: "modernc.org/sqlite", outcome: works,
		finding: "works: each child has its own copy",
		warmUp: func() (err error) {
			db, err = openDatabase(":memory:")
			return err
		},
		use: func(ctx context.Context) (string, error) { return "", useDatabase(ctx, db) },
	}
}

// randomSqliteRow is the state of SQLite's own random numbers, as of new rowids.
func randomSqliteRow() row {
	var db *sql.DB
	random := func() (s string, err error) {
		err = db.QueryRow("select hex(randomblob(8))").Scan(&s)
		return s, err
	}
	return row{
		library: "modernc.org/sqlite: random()", module: "modernc.org/sqlite", outcome: equal,
		warmUp: func() (err error) {
			if db, err = openDatabase(":memory:"); err != nil {
				return err
			}
			_, err = random()
			return err
		},
		fix: fix{line: "open a database in a file in 'AfterFork': the driver then renews them",
			afterFork: func() error {
				other, err := openDatabase(path(fmt.Sprint(os.Getpid(), ".db")))
				if err != nil {
					return err
				}
				return other.Close()
			}},
		use: func(context.Context) (string, error) { return random() },
	}
}

var bucket = []byte("bucket")

// openBolt opens a database, and writes to it if it can.
func openBolt(readOnly bool) (*bbolt.DB, error) {
	db, err := bbolt.Open(path("bolt"), 0o600,
		&bbolt.Options{Timeout: time.Second, ReadOnly: readOnly})
	if err != nil || readOnly {
		return db, err
	}
	return db, putBolt(db)
}

func putBolt(db *bbolt.DB) error {
	return db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		return b.Put([]byte("key"), []byte("value"))
	})
}

func getBolt(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bucket).Get([]byte("key")); string(v) != "value" {
			return fmt.Errorf("another value: %q", v)
		}
		return nil
	})
}

func boltRow() row {
	var db *bbolt.DB
	return row{
		library: "go.etcd.io/bbolt", module: "go.etcd.io/bbolt",
		outcome: "write .*: illegal seek", named: "/bolt",
		finding: "reads work, writes are an error: 'illegal seek'",
		warmUp: func() (err error) {
			db, err = openBolt(false)
			return err
		},
		fix: fix{line: "'bbolt.Open' with 'ReadOnly' in the warm-up", warmUp: func() error {
			first, err := openBolt(false)
			if err != nil {
				return err
			}
			if err := first.Close(); err != nil {
				return err
			}
			db, err = openBolt(true)
			return err
		}},
		use: func(context.Context) (string, error) {
			if err := getBolt(db); err != nil {
				return "", fmt.Errorf("read: %w", err)
			}
			if fixed() {
				return "", nil
			}
			return "", putBolt(db)
		},
	}
}
