package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom/dicomweb"
)

func TestAStoreThatIsAwayIsNoFailure(t *testing.T) {
	err := webError(fmt.Errorf("%w: reading in the bucket secret-name", cas.ErrUnavailable))
	var away *dicomweb.Unavailable
	if !errors.As(err, &away) || away.RetryAfter <= 0 || strings.Contains(away.Reason, "secret-name") {
		t.Errorf("%v", err)
	}
}
