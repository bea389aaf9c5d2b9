package claim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/harebus/harebus"
)

// Dir is a [Store] in a directory, which services on several machines can share over a
// network file system. Nothing outside of the directory can be read or written, also not
// through symbolic links.
type Dir struct{ root *os.Root }

// OpenDir opens a directory that exists.
func OpenDir(name string) (*Dir, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("claim: open the directory of bodies: %w", err)
	}
	return &Dir{root}, nil
}

// Close closes the directory.
func (d *Dir) Close() error { return d.root.Close() }

// Put writes a file, syncs it, and gives it its name, so that nobody sees a part of it.
func (d *Dir) Put(ctx context.Context, key string, body []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	folder := path.Dir(key)
	if err := d.root.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	partial := key + partialSuffix
	f, err := d.root.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.root.Rename(partial, key)
	}
	if err != nil {
		return errors.Join(err, d.root.Remove(partial))
	}
	return d.sync(folder)
}

const partialSuffix = ".partial"

// sync makes names in a folder durable, and those of the folders above it.
func (d *Dir) sync(folder string) error {
	for {
		f, err := d.root.Open(folder)
		if err != nil {
			return err
		}
		if err = errors.Join(f.Sync(), f.Close()); err != nil || folder == "." {
			return err
		}
		folder = path.Dir(folder)
	}
}

// Get reads a file.
func (d *Dir) Get(ctx context.Context, key string, limit int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := d.root.Open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: it is no file", ErrNotFound)
	case info.Size() > int64(limit):
		return nil, harebus.ErrBodyTooLarge
	}
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}

// Keep gives a file the time of now, from which [Dir.Sweep] counts.
func (d *Dir) Keep(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := time.Now()
	err := d.root.Chtimes(key, now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// Delete removes a file, if it is there.
func (d *Dir) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.root.Remove(key); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Sweep removes the bodies that were stored, or kept, before a time, and what a crash has left of
// unfinished ones, and returns how many it removed and their size. It removes folders that
// have become empty. Choose a time before that of every message that may still be in a
// queue, a delay or the error queue: a message whose body is gone cannot be handled.
func (d *Dir) Sweep(ctx context.Context, before time.Time) (files int, size int64, err error) {
	var folders []string
	err = fs.WalkDir(d.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			folders = append(folders, name)
			return nil
		}
		info, err := entry.Info()
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || !info.ModTime().Before(before) || !keys.MatchString(trimPartial(name)) {
			return nil
		}
		if err := d.root.Remove(name); err != nil {
			if gone(err) {
				return nil
			}
			return err
		}
		files, size = files+1, size+info.Size()
		return nil
	})
	for i := len(folders) - 1; i > 0 && err == nil; i-- {
		_ = d.root.Remove(folders[i]) // which only removes empty ones
	}
	return files, size, err
}

// gone says that a file has been removed meanwhile: by another sweep, or because its message was handled.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func trimPartial(name string) string {
	if cut := len(name) - len(partialSuffix); cut > 0 && name[cut:] == partialSuffix {
		return name[:cut]
	}
	return name
}
