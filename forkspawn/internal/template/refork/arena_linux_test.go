//go:build amd64 || arm64

package refork

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
)

// While the collector runs, a store of a pointer calls the runtime. The frozen
// section has no g for this call.
func TestArena_HasNumbersOnly(t *testing.T) {
	var look func(typ reflect.Type, path string)
	look = func(typ reflect.Type, path string) {
		switch typ.Kind() {
		case reflect.Struct:
			for i := range typ.NumField() {
				look(typ.Field(i).Type, path+"."+typ.Field(i).Name)
			}
		case reflect.Array:
			look(typ.Elem(), path+"[]")
		default:
			assert.True(t, typ.Kind() >= reflect.Bool && typ.Kind() <= reflect.Uintptr,
				"%s is a %s", path, typ)
		}
	}
	look(reflect.TypeFor[arena](), "arena")
}
