package cas

import (
	"encoding/hex"
	"path"
)

// Opens says whether a value of a Cabinet is a study key that a KEK opens,
// whatever generation it lies in.
func Opens(k KEK, name string, value []byte) bool {
	g, err := newGeneration(0, k)
	if err != nil {
		panic(err)
	}
	id, err := hex.DecodeString(path.Base(name))
	if err != nil {
		return false
	}
	_, _, err = g.unwrap(id, value)
	return err == nil
}
