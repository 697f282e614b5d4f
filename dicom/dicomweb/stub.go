package dicomweb

import (
	"github.com/priormesh/priormesh/dicom"
	"net/http"
)

func newServer(a Archive, o Options) http.Handler { return http.NotFoundHandler() }
func (m Match) in(ds dicom.Dataset) bool          { return true }
func layoutOf(inst *dicom.Instance) *Layout       { return nil }
