package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxDepth bounds folders within folders.
const maxDepth = 64

// found is a file that a walk came upon, or why something is none.
type found struct {
	path string
	size int64
	err  error
}

// walk visits every file in or under the paths, in the order of names. What
// cannot be read, or is neither file nor folder, is visited with an error. A
// path may be a symbolic link; one that lies in a folder is not followed: what
// it points to comes by itself if it is in that folder, and is visited with an
// error if it is not. Only visit's error ends the walk.
func walk(paths []string, visit func(found) error) error {
	for _, path := range paths {
		if err := walkRoot(path, visit); err != nil {
			return err
		}
	}
	return nil
}

func walkRoot(path string, visit func(found) error) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return visit(found{path: path, err: bare(err)})
	case info.Mode().IsRegular():
		return visit(found{path: path, size: info.Size()})
	case !info.IsDir():
		return visit(found{path: path, err: errNoFile})
	}
	root, err := filepath.EvalSymlinks(path)
	if err != nil {
		return visit(found{path: path, err: bare(err)})
	}
	return (&walker{root, visit}).folder(path, 0)
}

type walker struct {
	root  string // without symbolic links
	visit func(found) error
}

var (
	errNoFile  = errors.New("neither a file nor a folder")
	errOutside = errors.New("a symbolic link to outside of the folder is not followed; name its target on the command line")
	errDeep    = fmt.Errorf("more than %d folders deep; name it on the command line", maxDepth)
)

func (w *walker) folder(path string, depth int) error {
	if depth > maxDepth {
		return w.visit(found{path: path, err: errDeep})
	}
	entries, err := os.ReadDir(path) // what could be read comes beside the error
	if err != nil {
		if verr := w.visit(found{path: path, err: bare(err)}); verr != nil {
			return verr
		}
	}
	for _, e := range entries {
		if err := w.entry(filepath.Join(path, e.Name()), e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(path string, e fs.DirEntry, depth int) error {
	switch {
	case e.IsDir():
		return w.folder(path, depth+1)
	case e.Type()&fs.ModeSymlink != 0:
		if w.inside(path) {
			return nil
		}
		return w.visit(found{path: path, err: errOutside})
	case !e.Type().IsRegular():
		return w.visit(found{path: path, err: errNoFile})
	}
	info, err := e.Info()
	if err != nil {
		return w.visit(found{path: path, err: bare(err)})
	}
	return w.visit(found{path: path, size: info.Size()})
}

func (w *walker) inside(link string) bool {
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return false
	}
	rel, err := filepath.Rel(w.root, target)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// bare is an error without the path, which is said beside it.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
